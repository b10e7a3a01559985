//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrForbidden says that this system does not let us make namespaces, or not
// prepare them. The text of the error says what mends that.
var ErrForbidden = errors.New("this system does not let us make namespaces")

// A Prerequisite is something that a World needs of the system.
type Prerequisite struct {
	What string
	OK   bool
	Why  string // what is wrong, if it is not OK
	Mend string // a line that mends it
}

const mendTUN = "as root: modprobe tun && chmod 0666 /dev/net/tun; in a container: docker run --device /dev/net/tun"

// Prerequisites looks for everything that a World needs. It changes nothing.
func Prerequisites() []Prerequisite {
	list := settings()
	tried := Prerequisite{What: "a new user, network and mount namespace", OK: true}
	if err := try(); err != nil {
		tried.OK, tried.Why, tried.Mend = false, err.Error(), mendUnknown(list)
	}
	list = append(list, tried)
	device := Prerequisite{What: "a tun device (engine tun only)", OK: true}
	if fd, err := unix.Open(pathTUN, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		device.OK, device.Why, device.Mend = false, fmt.Sprintf("open %s: %v", pathTUN, err), mendTUN
	} else {
		unix.Close(fd)
	}
	return append(list, device)
}

// settings looks at what systems are known to forbid namespaces by.
func settings() []Prerequisite {
	root := ownCapabilities()&(1<<unix.CAP_SYS_ADMIN) != 0
	list := []Prerequisite{kernel()}
	for _, kind := range []string{"user", "net", "mnt"} {
		name := "user.max_" + kind + "_namespaces"
		list = append(list, setting(name, func(value int) bool { return value > 0 }, "15000"))
	}
	if !root {
		list = append(list,
			setting("kernel.unprivileged_userns_clone", func(value int) bool { return value != 0 }, "1"),
			apparmor())
	}
	return list
}

func kernel() Prerequisite {
	p := Prerequisite{What: "user namespaces in the kernel", OK: true}
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		p.OK, p.Why, p.Mend = false, err.Error(), "a kernel with CONFIG_USER_NS=y"
	}
	return p
}

// setting looks at a sysctl. Where it does not exist, nothing is forbidden by it.
func setting(name string, good func(int) bool, value string) Prerequisite {
	p := Prerequisite{What: "sysctl " + name, OK: true}
	if is, ok := sysctl(name); ok && !good(is) {
		p.OK, p.Why = false, fmt.Sprintf("it is %d", is)
		p.Mend = fmt.Sprintf("as root: sysctl -w %s=%s", name, value)
	}
	return p
}

func sysctl(name string) (value int, ok bool) {
	text, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return 0, false
	}
	value, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return value, err == nil
}

// apparmor looks for the restriction that Ubuntu has since 23.10: it lets only
// programs with a profile of their own use user namespaces.
func apparmor() Prerequisite {
	const name = "kernel.apparmor_restrict_unprivileged_userns"
	p := setting(name, func(value int) bool { return value == 0 || hasProfile() }, "0")
	if !p.OK {
		p.Why = "AppArmor has no profile for this program"
		p.Mend = "as root: install -m 644 packaging/apparmor/argyle /etc/apparmor.d/argyle && " +
			"apparmor_parser -r /etc/apparmor.d/argyle (it is for /usr/bin/argyle), or sysctl -w " + name + "=0"
	}
	return p
}

// hasProfile reports whether AppArmor knows us by name.
func hasProfile() bool {
	for _, path := range []string{"/proc/self/attr/apparmor/current", "/proc/self/attr/current"} {
		if text, err := os.ReadFile(path); err == nil {
			profile := strings.TrimSpace(string(text))
			return profile != "" && profile != "unconfined"
		}
	}
	return false
}

// mendUnknown is what may mend a system whose settings allow namespaces.
func mendUnknown(settings []Prerequisite) string {
	for _, p := range settings {
		if !p.OK {
			return p.Mend
		}
	}
	if confinement() {
		return "a seccomp filter is in force: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined; " +
			"in Kubernetes, securityContext: {seccompProfile: {type: Unconfined}, appArmorProfile: {type: Unconfined}}"
	}
	return "a security module (see dmesg) or a chroot may forbid it; or use --engine seccomp, which needs no namespaces"
}

// try makes the namespaces and does nothing in them.
func try() error {
	uids, gids, all := idMaps()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{childName, "{", ""}, &syscall.ProcAttr{
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 namespaces,
			UidMappings:                uids,
			GidMappings:                gids,
			GidMappingsEnableSetgroups: all,
			AmbientCaps:                neededCapabilities(),
		},
	})
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	for {
		if _, err = unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return nil
		}
	}
}

// denied makes an error of the child's first steps [ErrForbidden] if it means
// that our capabilities are worth nothing.
func denied(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	return err
}

// forbidden says which of the things that are known to be missing may be the
// reason of an error, and what mends it.
func forbidden(err error) error {
	for _, errno := range []error{unix.EPERM, unix.EACCES, unix.ENOSPC, unix.EUSERS, unix.EINVAL, unix.ENOSYS} {
		if errors.Is(err, errno) {
			return because(err, settings())
		}
	}
	return err
}

func because(err error, list []Prerequisite) error {
	if !errors.Is(err, ErrForbidden) {
		err = fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	for _, p := range list {
		if !p.OK {
			return fmt.Errorf("%w; %s: %s; %s", err, p.What, p.Why, p.Mend)
		}
	}
	return fmt.Errorf("%w; %s", err, mendUnknown(nil))
}
