package httpconnect

import (
	"net"
	"net/http"
	"slices"

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

// lingerTime is how long a refused client may go on speaking.
const lingerTime = serve.LingerTime
