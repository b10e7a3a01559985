//go:build linux

package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// order is what the child is told by its command line.
type order struct {
	Control  int    // the number of its end of the pair
	Group    int    // the program's process group
	Keep     uint64 // the capabilities that a program of root's keeps
	Hook     []byte
	TUN      bool
	Resolver bool
	Mask     []string
}

// message is what parent and child tell each other. Files travel with it.
type message struct {
	// Of the parent: start the program, or open a socket.
	Run          bool `json:",omitempty"`
	Family, Type int  `json:",omitempty"`

	// Of the child.
	Files []string `json:",omitempty"` // the names of the files that come along
	IPv6  bool     `json:",omitempty"`
	PID   int      `json:",omitempty"` // the program's
	Error string   `json:",omitempty"`
	Kind  string   `json:",omitempty"` // of the error, for what errors.Is finds
	Path  string   `json:",omitempty"` // what could not be executed
	Errno int      `json:",omitempty"`
}

// Kinds of errors.
const (
	kindForbidden = "forbidden"
	kindNoTUN     = "no tun"
	kindNotFound  = "not found"
	kindExec      = "exec"
	kindErrno     = "errno"
)

// Bounds of a message: what fits into a socket's buffer, and what the kernel lets
// travel along.
const (
	maxMessage = 64 << 10
	maxFiles   = 253
)

// failure is a message about an error.
func failure(err error) *message {
	m := &message{Error: err.Error()}
	var path *fs.PathError
	var errno unix.Errno
	if errors.As(err, &errno) {
		m.Errno = int(errno)
		m.Kind = kindErrno
	}
	switch {
	case errors.Is(err, ErrForbidden):
		m.Kind = kindForbidden
	case errors.Is(err, ErrNoTUN):
		m.Kind = kindNoTUN
	case errors.Is(err, exec.ErrNotFound):
		m.Kind = kindNotFound
	case errors.As(err, &path) && path.Op == "exec":
		m.Kind, m.Path = kindExec, path.Path
	}
	if len(m.Error) > maxMessage/8 {
		m.Error = m.Error[:maxMessage/8]
	}
	return m
}

// err is the inverse of failure.
func (m *message) err() error {
	switch {
	case m.Error == "":
		return nil
	case m.Kind == kindForbidden:
		return because(&reported{m.Error, ErrForbidden}, settings())
	case m.Kind == kindNoTUN:
		return &reported{m.Error, ErrNoTUN}
	case m.Kind == kindNotFound:
		return &reported{m.Error, exec.ErrNotFound}
	case m.Kind == kindExec:
		return &fs.PathError{Op: "exec", Path: m.Path, Err: unix.Errno(m.Errno)}
	case m.Kind == kindErrno:
		return &reported{m.Error, unix.Errno(m.Errno)}
	}
	return errors.New(m.Error)
}

// reported is an error that has come from the child as text.
type reported struct {
	text string
	is   error
}

func (r *reported) Error() string { return r.text }
func (r *reported) Unwrap() error { return r.is }

// encode returns a message as bytes, and what carries files along.
func (m *message) encode(files []*os.File) (b, oob []byte, err error) {
	if b, err = json.Marshal(m); err != nil {
		return nil, nil, err
	}
	if len(b) > maxMessage || len(files) > maxFiles {
		return nil, nil, fmt.Errorf("a message of %d bytes and %d files is too large", len(b), len(files))
	}
	fds := make([]int, len(files))
	for i, file := range files {
		fds[i] = int(file.Fd())
	}
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	return b, oob, nil
}

// decode is the inverse of encode. It returns the files even with an error.
func decode(b, oob []byte) (*message, []*os.File, error) {
	files, err := rights(oob)
	if err != nil {
		return nil, files, err
	}
	m := new(message)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, files, err
	}
	return m, files, nil
}

// rights takes the files out of a control message.
func rights(oob []byte) (files []*os.File, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			// So that the poller takes it, and Close ends a read.
			_ = unix.SetNonblock(fd, true)
			files = append(files, os.NewFile(uintptr(fd), "from the namespace"))
		}
	}
	return files, nil
}

// errEnded says that the child is no more.
var errEnded = errors.New("our process in the namespace has ended")

// receive waits for a message of the child.
func receive(conn *net.UnixConn) (*message, []*os.File, error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := conn.ReadMsgUnix(b, oob)
	switch {
	case err == io.EOF || err == nil && n == 0:
		return nil, nil, errEnded
	case err != nil:
		return nil, nil, err
	}
	m, files, err := decode(b[:n], oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("a message was cut off")
	}
	if err != nil {
		closeAll(files)
		return nil, nil, fmt.Errorf("read from our process in the namespace: %w", err)
	}
	return m, files, nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}

// request sends a message to the child and waits for the answer. Nothing that
// it may ask for takes time.
func (w *World) request(m *message) (*message, []*os.File, error) {
	b, oob, err := m.encode(nil)
	if err != nil {
		return nil, nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, _, err := w.control.WriteMsgUnix(b, oob, nil); err != nil {
		if errors.Is(err, unix.EPIPE) {
			err = errEnded
		}
		return nil, nil, err
	}
	return receive(w.control)
}
