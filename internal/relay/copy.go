package relay

import (
	"io"
	"sync"
)

// bufferSize is that of a small copy. What fills it is bulk.
const bufferSize = 16 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// copyBuffer copies through memory: for TLS, for connections that are not
// sockets, and for systems without anything better.
func (h *half) copyBuffer() error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, err := h.src.Read(buf[:h.chunk(len(buf))])
		if gerr := h.pass(n); gerr != nil {
			return gerr
		}
		if werr := h.write(buf[:n]); werr != nil {
			return werr
		}
		switch err {
		case nil:
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}
