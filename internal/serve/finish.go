package serve

import (
	"io"
	"net"
	"time"
)

// How long, and for how many bytes, a refused client may go on speaking.
const (
	LingerTime  = 2 * time.Second
	lingerBytes = 256 << 10
)

// Finish ends a connection so that the client reads the last answer: closing a
// socket that has unread bytes would send a reset, which overtakes it.
func Finish(conn net.Conn) {
	defer conn.Close()
	if CloseWrite(conn) != nil {
		return
	}
	if conn.SetReadDeadline(time.Now().Add(LingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, conn, lingerBytes)
	}
}
