package httpconnect

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func testPipe(t *testing.T) (a, b *pipeConn) {
	a, b = pipe(&net.TCPAddr{Port: 1}, &net.TCPAddr{Port: 2})
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

func TestPipeHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := testPipe(t)
		up := bytes.Repeat([]byte("up"), 50000)
		go func() {
			a.Write(up)
			a.CloseWrite()
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, up) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		go func() {
			b.Write([]byte("down"))
			b.Close()
		}()
		if got, err := io.ReadAll(a); err != nil || string(got) != "down" {
			t.Fatalf("after our end: %q, %v", got, err)
		}
		synctest.Wait() // until Close has returned
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after CloseWrite: %v", err)
		}
		if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after Close: %d, %v", n, err)
		}
	})
}

func TestPipePeerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := testPipe(t)
		wrote := make(chan error)
		go func() {
			_, err := a.Write([]byte("nobody reads this"))
			wrote <- err
		}()
		synctest.Wait()
		b.Close()
		if err := <-wrote; !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %v, want EPIPE", err)
		}
		if _, err := a.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read: %v, want EOF", err)
		}
		if n, err := (transportConn{a, func() bool { return false }}).Write([]byte("abc")); n != 3 || err != nil {
			t.Errorf("transport's write: %d, %v", n, err)
		}
	})
}

func TestPipeReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := testPipe(t)
		ended := 0
		b.onClose = func() { ended++ }
		b.SetLinger(0)
		b.Close()
		b.Close()
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v, want ECONNRESET", err)
		}
		if ended != 1 {
			t.Errorf("onClose called %d times", ended)
		}
	})
}

func TestPipeDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := testPipe(t)
		start := time.Now()
		a.SetDeadline(start.Add(time.Minute))
		_, rerr := a.Read(make([]byte, 1))
		_, werr := a.Write([]byte("x"))
		if !errors.Is(rerr, os.ErrDeadlineExceeded) || !errors.Is(werr, os.ErrDeadlineExceeded) {
			t.Errorf("read %v, write %v", rerr, werr)
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("after %v", d)
		}
		if n, err := a.Write(nil); n != 0 || err != nil {
			t.Errorf("empty write: %d, %v", n, err)
		}
		if a.LocalAddr().String() != ":1" || a.RemoteAddr().String() != ":2" {
			t.Errorf("addresses %v, %v", a.LocalAddr(), a.RemoteAddr())
		}
	})
}
