//go:build linux

package main

import (
	"flag"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Inside a namespace there is a host beyond loopback: many clients reach loopback without their proxy.
const (
	outerAddr = "203.0.113.1"
	outerName = "target.test"
)

const inNamespaceOf = "ARGYLE_TEST_IN_NAMESPACE_OF"

// inNamespace gives a test network and mount namespaces of its own, where every port is free and nothing of the machine is
// touched. It runs the test once more in there; so it is true in there, and false where there is nothing left to do.
//
//	if !inNamespace(t) {
//		return
//	}
func inNamespace(t *testing.T) bool {
	t.Helper()
	return inNamespaceWith(t, nil, nil)
}

// inNamespaceWith adds flags of the test binary, and variables: what a test needs from the machine, such as a compiler's
// cache, it gets ready before.
func inNamespaceWith(t *testing.T, flags, env []string) bool {
	t.Helper()
	if os.Getenv(inNamespaceOf) == t.Name() {
		setUpNamespace(t)
		return true
	}
	t.Parallel()
	flags = append([]string{"-test.run=" + chosen(t), "-test.v", "-test.timeout=90s"}, flags...)
	cmd := command(t, testBinary(t), flags...)
	cmd.Env = append(cmd.Env, inNamespaceOf+"="+t.Name(), "ARGYLE_PEERS="+os.Getenv("ARGYLE_PEERS"), quickExit)
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{
			unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE,
		}
	}
	c := start(t, cmd)
	code := c.waitFor(t, 5*patience)
	t.Logf("in the namespace:\n%s%s", c.stdout.String(), c.stderr.String())
	if code != 0 {
		t.Fail()
	}
	return false
}

// chosen is a pattern for the test, with those of its subtests that were asked for.
func chosen(t *testing.T) string {
	_, subtests, found := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	if !found {
		return "^" + t.Name() + "$"
	}
	return "^" + t.Name() + "$/" + subtests
}

// setUpNamespace makes what a fresh network namespace lacks.
func setUpNamespace(t *testing.T) {
	t.Helper()
	ip := peer(t, "ip")
	for _, line := range []string{
		"link set lo up",
		"address add " + outerAddr + "/32 dev lo",
	} {
		mustRun(t, command(t, ip, strings.Fields(line)...))
	}
	hosts := "127.0.0.1 localhost\n::1 localhost ip6-localhost\n" + outerAddr + " " + outerName + "\n"
	cover(t, "/etc/hosts", hosts)
}

// cover puts other text where programs in this mount namespace expect a file of the system.
func cover(t *testing.T, path, text string) {
	t.Helper()
	covering := writeFile(t, "covering", text)
	if err := os.Chmod(covering, 0o644); err != nil { // as those of the system are
		t.Fatal(err)
	}
	if err := unix.Mount(covering, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount over %s: %v", path, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// netnsOf identifies the network namespace of a process, "self" for ours.
func netnsOf(t *testing.T, pid string) string {
	t.Helper()
	name, err := os.Readlink("/proc/" + pid + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}
