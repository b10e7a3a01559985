//go:build linux

package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle/internal/process"
)

// childName is the argv[0] by which the child knows what it is.
const childName = "argyle-netns"

// IsChild reports whether this process was started by [Start]. main has to ask
// first, and to call RunChild then.
func IsChild() bool { return len(os.Args) > 2 && os.Args[0] == childName }

// RunChild prepares the namespace, calls hook there, with capabilities over it,
// hands the files that hook returns to the parent, and serves it until it ends. It
// does not return.
func RunChild(hook func(hook []byte) (map[string]*os.File, error)) {
	os.Exit(runChild(hook)) //nolint:revive // this is main
}

// runChild returns the exit status.
func runChild(hook func([]byte) (map[string]*os.File, error)) int {
	// Capabilities are a thread's own, and this one starts the program.
	runtime.LockOSThread()
	var c child
	if err := json.Unmarshal([]byte(os.Args[1]), &c.order); err != nil {
		fmt.Fprintln(os.Stderr, "argyle:", err)
		return 125
	}
	unix.CloseOnExec(c.order.Control)
	process.KeepIgnored()
	if err := c.begin(hook); err != nil {
		_ = c.send(failure(err), nil)
		return 125
	}
	for c.serve() {
	}
	return 0
}

// child is this process, in the namespace.
type child struct{ order order }

// begin prepares everything and tells the parent.
func (c *child) begin(hook func([]byte) (map[string]*os.File, error)) error {
	ready, files, err := c.prepare(hook)
	if err != nil {
		return err
	}
	defer closeAll(files)
	if err := dropCapabilities(c.order.Keep); err != nil {
		return err
	}
	// The program runs as the same user. It shall not look into us.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_DUMPABLE", err)
	}
	return c.send(ready, files)
}

func (c *child) prepare(hook func([]byte) (map[string]*os.File, error)) (ready *message, files []*os.File, err error) {
	ready = new(message)
	var device *os.File
	if device, ready.IPv6, err = prepareNetwork(c.order.TUN); err != nil {
		return nil, nil, err
	}
	if err := prepareMounts(c.order.Mask, c.order.Resolver); err != nil {
		return nil, nil, err
	}
	named, err := hook(c.order.Hook)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		ready.Files, files = append(ready.Files, name), append(files, named[name])
	}
	if device != nil {
		ready.Files, files = append(ready.Files, FileTUN), append(files, device)
	}
	return ready, files, nil
}

// serve answers one request. It reports false when the parent is gone.
func (c *child) serve() bool {
	b := make([]byte, 4096)
	n, err := unix.Read(c.order.Control, b)
	if err == unix.EINTR {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	m, _, err := decode(b[:n], nil)
	var answer *message
	var files []*os.File
	switch {
	case err != nil:
	case m.Run:
		answer, err = c.start(os.Args[2:])
	default:
		answer = new(message)
		files, err = open(m.Family, m.Type)
	}
	if err != nil {
		answer = failure(err)
	}
	defer closeAll(files)
	return c.send(answer, files) == nil
}

func (c *child) send(m *message, files []*os.File) error {
	b, oob, err := m.encode(files)
	if err != nil {
		return err
	}
	for {
		err = unix.Sendmsg(c.order.Control, b, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// open makes a socket.
func open(family, kind int) ([]*os.File, error) {
	if family != unix.AF_INET && family != unix.AF_INET6 || kind != unix.SOCK_STREAM && kind != unix.SOCK_DGRAM {
		return nil, unix.EINVAL
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return []*os.File{os.NewFile(uintptr(fd), "socket")}, nil
}

// start starts the program: as a child of our parent's, who shall wait for it,
// and in its process group, which the terminal's keys send signals to.
func (c *child) start(argv []string) (*message, error) {
	path, err := process.Find(argv[0], os.Environ())
	if err != nil {
		return nil, err
	}
	if err := keepSockets(c.order.Control); err != nil {
		return nil, err
	}
	if err := refuseFamilies(); err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT, Setpgid: true, Pgid: c.order.Group},
	}
	pid, err := syscall.ForkExec(path, argv, attr)
	if errors.Is(err, unix.ENOEXEC) { // a script without #!, which execvp gives to the shell
		pid, err = syscall.ForkExec("/bin/sh", append([]string{"/bin/sh", path}, argv[1:]...), attr)
	}
	if err != nil {
		return nil, &os.PathError{Op: "exec", Path: path, Err: err}
	}
	letGo()
	return &message{PID: pid}, nil
}
