package transparent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// world is a namespace whose traffic comes to us.
type world struct {
	t     *testing.T
	cmd   *exec.Cmd
	ln    net.Listener
	sock  *net.UDPConn
	queue *os.File // nil if the rules do not hold

	mu      sync.Mutex
	control int // to the broker
	server  *Server
}

// newWorld starts a world. The test is skipped where there can be none.
func newWorld(t *testing.T, rules Rules) *world {
	t.Helper()
	w, stderr, err := startWorld(t, rules)
	if err != nil {
		if os.Getenv("ARGYLE_PEERS") == "require" {
			t.Fatalf("no namespace: %v: %s", err, stderr)
		}
		t.Skipf("no namespace: %v: %s", err, stderr)
	}
	return w
}

func startWorld(t *testing.T, rules Rules) (*world, string, error) {
	t.Helper()
	rules.Table = "argyle"
	text, err := json.Marshal(&rules)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=world", "GORACE=atexit_sleep_ms=0", "ARGYLE_TEST_RULES="+string(text))
	cmd.ExtraFiles = []*os.File{theirs}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		unix.Close(pair[0])
		return nil, "", err
	}
	w := &world{t: t, cmd: cmd, control: pair[0]}
	files, msg, err := w.receive()
	if err != nil || len(files) < 2 {
		unix.Close(pair[0])
		waitErr := cmd.Wait()
		return nil, msg + stderr.String(), errors.Join(err, waitErr)
	}
	t.Cleanup(func() {
		unix.Close(pair[0])
		if err := cmd.Wait(); err != nil {
			t.Errorf("world: %v: %s", err, stderr.String())
		}
	})
	w.ln, err = net.FileListener(files[0])
	if err != nil {
		t.Fatal(err)
	}
	sock, err := net.FilePacketConn(files[1])
	if err != nil {
		t.Fatal(err)
	}
	w.sock = sock.(*net.UDPConn)
	files[0].Close()
	files[1].Close()
	if len(files) > 2 {
		w.queue = files[2]
	}
	return w, "", nil
}

// receive takes files from the process in the namespace.
func (w *world) receive() ([]*os.File, string, error) {
	b, oob := make([]byte, 512), make([]byte, 256)
	n, oobn, _, _, err := unix.Recvmsg(w.control, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, "", err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) == 0 {
		return nil, string(b[:n]), err
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	var files []*os.File
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "from the namespace"))
	}
	return files, "", err
}

// bind is a [PacketServer.Reply].
func (w *world) bind(src netip.AddrPort) (*net.UDPConn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := unix.Sendmsg(w.control, []byte(src.String()), nil, nil, 0); err != nil {
		return nil, err
	}
	files, msg, err := w.receive()
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("bind %v: %s %w", src, msg, err)
	}
	defer files[0].Close()
	conn, err := net.FilePacketConn(files[0])
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// serve runs a server until the test ends.
func (w *world) serve(s *Server) {
	w.t.Helper()
	w.server = s
	ended := make(chan error, 2)
	go func() { ended <- s.Serve(w.ln) }()
	n := 1
	if w.queue != nil {
		n = 2
		go func() { ended <- s.Hold(w.queue) }()
	}
	w.t.Cleanup(func() {
		s.Close()
		for range n {
			if err := <-ended; err != ErrServerClosed {
				w.t.Errorf("server ended: %v", err)
			}
		}
	})
}

// servePackets does the same for datagrams.
func (w *world) servePackets(s *PacketServer) {
	w.t.Helper()
	if s.Reply == nil {
		s.Reply = w.bind
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(w.sock) }()
	w.t.Cleanup(func() {
		s.Close()
		if err := <-ended; err != ErrServerClosed {
			w.t.Errorf("server ended: %v", err)
		}
	})
}

// command returns a program in the namespace.
func (w *world) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	w.t.Cleanup(cancel)
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("ARGYLE_PEERS") == "require" {
			w.t.Fatal(err)
		}
		w.t.Skip(err)
	}
	return exec.CommandContext(ctx, "nsenter", append([]string{
		"--preserve-credentials", "-U", "-n", "-t", strconv.Itoa(w.cmd.Process.Pid), "--", name,
	}, args...)...)
}

// client returns our own client in the namespace.
func (w *world) client(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := w.command(exe, args...)
	cmd.Env = append(os.Environ(), roleVariable+"=client", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// run returns what a program prints.
func (w *world) run(cmd *exec.Cmd) string {
	w.t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Errorf("%v: %v: %s", cmd.Args[7:], err, stderr.String())
	}
	return string(out)
}
