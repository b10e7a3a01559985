package fakedns

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestWorld runs getent and curl where our server is the only resolver and all
// of the pool leads to this host.
func TestWorld(t *testing.T) {
	for _, name := range []string{"ip", "getent", "curl"} {
		peer(t, name)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envWorld+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		missing(t, fmt.Errorf("user namespaces: %w", err))
	}
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

// worldMain is the process in those namespaces.
func worldMain() {
	if err := world(os.Getenv(envWorld)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func world(dir string) error {
	v6 := netip.MustParsePrefix("fd00:aa::/64")
	for _, line := range []string{
		// getent wants addresses that are not loopback's (AI_ADDRCONFIG).
		"ip link set lo up", "ip addr add 10.111.0.2/32 dev lo", "ip addr add fd00:bb::2/128 dev lo",
		"ip route add local 198.18.0.0/15 dev lo", "ip -6 route add local fd00:aa::/64 dev lo",
	} {
		if _, err := run(line); err != nil {
			return err
		}
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	for file, text := range map[string]string{
		"resolv.conf": "nameserver 127.0.0.1\noptions attempts:1\n", "nsswitch.conf": "hosts: dns\n",
	} {
		ours := filepath.Join(dir, file)
		if err := os.WriteFile(ours, []byte(text), 0o644); err != nil {
			return err
		}
		if err := syscall.Mount(ours, "/etc/"+file, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	pool, err := Open(Options{IPv6: v6})
	if err != nil {
		return err
	}
	s := &Server{Pool: pool, Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}
	return errors.Join(serveWorld(s), s.Close(), pool.Close())
}

// serveWorld serves names, and a page that says by which name it was reached.
func serveWorld(s *Server) error {
	udp, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		return err
	}
	go s.ServePacket(udp)
	tcp, err := net.Listen("tcp", "127.0.0.1:53")
	if err != nil {
		return err
	}
	go s.Serve(tcp)
	web, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	page := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addr := addrPort(r.Context().Value(http.LocalAddrContextKey).(net.Addr)).Addr()
		name, ok := s.Pool.Name(addr)
		fmt.Fprintf(w, "%s %v %v", name, ok, addr.Unmap().Is4())
	})}
	go page.Serve(web)
	defer page.Close()

	v4, v6, err := s.Pool.Addrs(netip.Addr{}, "www.example.test")
	if err != nil {
		return err
	}
	var wrong []error
	for line, want := range map[string]string{
		"getent ahostsv4 www.example.test":                   v4.String(),
		"getent ahostsv6 www.Example.test":                   v6.String(),
		"getent ahosts www.example.test":                     v6.String(),
		"getent hosts " + v4.String():                        "www.example.test",
		"getent hosts " + v6.String():                        "www.example.test",
		"getent ahostsv4 localhost":                          "127.0.0.1",
		"curl -sS -4 -m 20 http://www.example.test/":         "www.example.test true true",
		"curl -sS -6 -m 20 http://other.example.test/":       "other.example.test true false",
		"curl -sS -4 -m 20 http://198.18.0.1/":               " false true",
		"curl -sS -4 -m 20 http://under_score.example.test/": "under_score.example.test true true",
	} {
		if out, err := run(line); err != nil || !strings.Contains(out, want) {
			wrong = append(wrong, fmt.Errorf("%s: %q, %w, want %q", line, out, err, want))
		}
	}
	for _, line := range []string{"getent ahosts a.invalid", "getent ahosts single", "getent hosts 198.18.0.1"} {
		if out, err := run(line); err == nil {
			wrong = append(wrong, fmt.Errorf("%s: %q", line, out))
		}
	}
	return errors.Join(wrong...)
}

func run(line string) (string, error) {
	words := strings.Fields(line)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "http_proxy=", "no_proxy=*")
	b, err := cmd.Output()
	return string(b), err
}
