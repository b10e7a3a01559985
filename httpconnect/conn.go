package httpconnect

import (
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/argyle-socks/argyle/internal/serve"
)

// bare returns the connection inside what a handshake has put around it, so
// that the relay can splice, and the bytes that were read ahead of it.
func bare(conn net.Conn) (net.Conn, []byte) {
	var unread []byte
	for {
		w, ok := conn.(interface {
			Unwrap() (conn net.Conn, unread []byte)
		})
		if !ok {
			return conn, unread
		}
		inner, b := w.Unwrap()
		conn, unread = inner, append(unread, b...)
	}
}

// hijack takes the client's connection over from net/http, with every byte that
// the client has sent after the header.
func hijack(w http.ResponseWriter) (net.Conn, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	inner, unread := bare(conn)
	ahead, _ := rw.Reader.Peek(rw.Reader.Buffered()) // no error: they are there
	return serve.Unread(inner, slices.Concat(ahead, unread)), nil
}

// finish ends a connection so that the client reads the last answer: closing a
// socket that has unread bytes would send a reset, which overtakes it.
func finish(conn net.Conn) {
	defer conn.Close()
	inner, _ := bare(conn)
	w, ok := inner.(interface{ CloseWrite() error })
	if !ok || w.CloseWrite() != nil {
		return
	}
	if conn.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, conn, lingerBytes)
	}
}

// resetOnClose makes the coming Close a reset. It tells an HTTP/1.0 client, for
// whom an answer ends with the connection, that this one is not complete.
func resetOnClose(conn net.Conn) {
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok { // as *tls.Conn has
		conn, _ = bare(secure.NetConn())
	}
	if l, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
}

// How long, and for how many bytes, a refused client may go on speaking.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 256 << 10
)
