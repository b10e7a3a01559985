//go:build linux

package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle/internal/process"
)

// A Config says what to run, and in what kind of namespace.
type Config struct {
	Argv []string // the program, looked for in PATH, and its arguments
	Env  []string // nil means our own

	// Hook is handed to the hook of [RunChild].
	Hook []byte

	// TUN gives the namespace a tun device, the file [FileTUN], and default
	// routes through it. Without, every address is the namespace's own
	// (AnyIP): what the program sends comes back to it, where rules can
	// lead it to sockets of the hook.
	TUN bool

	// Resolver has the program ask a resolver of the world for names, whatever
	// resolv.conf says, for whoever answers for all of them.
	Resolver bool

	// Mask are the unix sockets that the program shall not reach, with the
	// patterns of [filepath.Match]; nil means [DefaultMask].
	Mask []string

	// WaitAll makes [World.Run] wait for what the program leaves behind.
	WaitAll bool
}

// A World is the namespaces, and the child of ours in them.
type World struct {
	config  Config
	pid     int // of the child
	control *net.UnixConn
	files   map[string]*os.File
	ipv6    bool

	mu sync.Mutex // one request at a time
}

// Start makes a World. The program does not run yet. An error is [ErrForbidden]
// if this system does not let us, [ErrNoTUN] if it has no tun devices. ctx bounds
// the start alone.
func Start(ctx context.Context, config Config) (*World, error) {
	if len(config.Argv) == 0 {
		return nil, errors.New("no program to run")
	}
	if config.WaitAll {
		if err := process.Adopt(); err != nil {
			return nil, err
		}
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	w := &World{config: config, control: ours}
	w.pid, err = w.fork(theirs)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start ourselves in a namespace: %w", forbidden(err))
	}
	theirs.Close()
	if err := w.prepare(ctx); err != nil {
		_ = w.Close()
		return nil, err
	}
	return w, nil
}

// socketPair returns a connection that keeps messages apart, and its other end.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "child"), os.NewFile(uintptr(fds[1]), "parent")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// fork starts ourselves in new namespaces, with the capabilities over them.
func (w *World) fork(control *os.File) (pid int, err error) {
	files := []uintptr{0, 1, 2}
	// What we have inherited is the program's too, under its own number.
	for isInherited(len(files)) {
		files = append(files, uintptr(len(files)))
	}
	order, err := json.Marshal(&order{
		Control: len(files), Group: unix.Getpgrp(), Keep: keptCapabilities(),
		Hook: w.config.Hook, TUN: w.config.TUN, Resolver: w.config.Resolver || w.config.TUN, Mask: w.config.Mask,
	})
	if err != nil {
		return 0, err
	}
	env := w.config.Env
	if env == nil {
		env = os.Environ()
	}
	uids, gids, all := idMaps()
	return syscall.ForkExec("/proc/self/exe", append([]string{childName, string(order)}, w.config.Argv...), &syscall.ProcAttr{
		Env:   env,
		Files: append(files, control.Fd()),
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 namespaces,
			UidMappings:                uids,
			GidMappings:                gids,
			GidMappingsEnableSetgroups: all,
			AmbientCaps:                neededCapabilities(),
			// The terminal's keys are not for the child.
			Setpgid: true,
		},
	})
}

const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS

// isInherited reports whether fd was open when we were started: all that the
// runtime opens is closed on exec.
func isInherited(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// prepare waits until the child has made everything.
func (w *World) prepare(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.control.SetReadDeadline(past) })
	answer, files, err := receive(w.control)
	if !stop() && ctx.Err() != nil {
		closeAll(files)
		return fmt.Errorf("prepare the namespace: %w", ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("prepare the namespace: %w", err)
	}
	if answer.Error != "" {
		closeAll(files)
		return fmt.Errorf("prepare the namespace: %w", answer.err())
	}
	if len(files) != len(answer.Files) {
		closeAll(files)
		return fmt.Errorf("prepare the namespace: %d files came instead of %d", len(files), len(answer.Files))
	}
	w.ipv6 = answer.IPv6
	w.files = make(map[string]*os.File, len(files))
	for i, name := range answer.Files {
		w.files[name] = files[i]
	}
	return nil
}

// File returns a file that the hook has made, or [FileTUN]; nil if there is none
// of that name. It is closed with the World.
func (w *World) File(name string) *os.File { return w.files[name] }

// MTU returns that of the tun device.
func (w *World) MTU() int { return tunMTU }

// IPv6 reports whether the namespace has it.
func (w *World) IPv6() bool { return w.ipv6 }

// An ExitError is why the program was not started, and the exit status that
// stands for that.
type ExitError struct {
	Code int // 127 if it is not found, 126 if it cannot be executed, 125 else
	Err  error
}

func (e *ExitError) Error() string { return e.Err.Error() }
func (e *ExitError) Unwrap() error { return e.Err }

// Run starts the program and waits for its end. What is to serve it must be
// serving. Meanwhile it gets the signals that come to us, and we stop when it
// stops. An error is an [*ExitError]. It may be called once.
func (w *World) Run() (process.Status, error) {
	signals := process.Catch()
	defer signals.Stop()
	answer, files, err := w.request(&message{Run: true})
	closeAll(files)
	if err == nil {
		err = answer.err()
	}
	if err != nil {
		return process.Status{}, &ExitError{Code: process.ExitCode(err), Err: err}
	}
	status, err := signals.Wait(answer.PID, w.config.WaitAll, w.pid)
	if err != nil {
		return status, &ExitError{Code: process.ExitCode(nil), Err: fmt.Errorf("wait for the program: %w", err)}
	}
	return status, nil
}

// Close ends the child, so that nothing can be opened in the namespace any more.
// What is left of the program goes on without a network.
func (w *World) Close() error {
	err := w.control.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	for _, file := range w.files {
		_ = file.Close()
	}
	w.end()
	return err
}

// end ends the child. It would end by itself, unless it is in the hook, or the
// program has stopped it.
func (w *World) end() {
	for flags := unix.WNOHANG; ; {
		pid, err := unix.Wait4(w.pid, nil, flags, nil)
		switch {
		case err == unix.EINTR:
		case err != nil || pid == w.pid:
			return // it has ended, or did long ago, and Run has seen it
		default:
			_ = unix.Kill(w.pid, unix.SIGKILL) // the number is still its own
			flags = 0
		}
	}
}
