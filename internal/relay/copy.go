package relay

import (
	"io"
	"sync"
)

// bufferSize is that of a small copy. What fills it is bulk.
const bufferSize = 16 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// A someWriter takes as much of b as it has room for, and says how much that was,
// at least one byte. So it can be given much at once, and a slow reader is still
// seen to take a little at a time.
type someWriter interface {
	WriteSome(b []byte) (n int, err error)
}

// bulkSize is that of a copy of bulk to a someWriter, and bulkLeast what it has to
// have to be one: what comes slowly is not to hold so much while it waits.
const (
	bulkSize  = 256 << 10
	bulkLeast = bulkSize / 4
)

var bulkBuffers = sync.Pool{New: func() any { return new([bulkSize]byte) }}

// copyBuffer copies through memory: for TLS, for connections that are not
// sockets, and for systems without anything better.
func (h *half) copyBuffer() error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	some, _ := h.dst.(someWriter)
	for {
		n, err := h.piece(buf[:], h.write)
		if n == bufferSize && err == nil && some != nil {
			err = h.copyBulk(some)
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

// copyBulk copies until that is bulk no more.
func (h *half) copyBulk(to someWriter) error {
	buf := bulkBuffers.Get().(*[bulkSize]byte)
	defer bulkBuffers.Put(buf)
	for {
		n, err := h.piece(buf[:], func(b []byte) error { return h.writeSome(to, b) })
		if n < bulkLeast || err != nil {
			return err
		}
	}
}

// piece copies what comes next, of at most the size of buf.
func (h *half) piece(buf []byte, write func([]byte) error) (n int, err error) {
	n, err = h.src.Read(buf[:h.chunk(len(buf))])
	if gerr := h.pass(n); gerr != nil {
		return n, gerr
	}
	if werr := write(buf[:n]); werr != nil {
		return n, werr
	}
	return n, err
}

// writeSome is write, which counts whatever goes when it goes.
func (h *half) writeSome(to someWriter, b []byte) error {
	h.writing.Store(true)
	for len(b) > 0 {
		n, err := to.WriteSome(b)
		h.moved(n)
		if err != nil {
			h.wrote(err)
			return &writeError{err}
		}
		b = b[n:]
	}
	h.wrote(nil)
	return nil
}
