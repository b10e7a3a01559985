package tun

import (
	"io"
	"sync"
)

// maxPacket is the length of the longest packet that there is.
const maxPacket = 1<<16 - 1

// wire is a device as we use it. write may be called from several goroutines.
type wire interface {
	// read waits for one packet, fills parts with it and says how long it is.
	read(parts [][]byte) (int, error)

	// write gives one packet, which is in pieces.
	write(parts [][]byte) error
}

// plainWire is a device that knows Read and Write only.
type plainWire struct {
	device io.ReadWriter
	buf    []byte
}

func newPlainWire(device io.ReadWriter, header int) *plainWire {
	return &plainWire{device, make([]byte, header+maxPacket)}
}

func (w *plainWire) read(parts [][]byte) (int, error) {
	n, err := w.device.Read(w.buf)
	rest := w.buf[:n]
	for _, part := range parts {
		rest = rest[copy(part, rest):]
	}
	return n - len(rest), err
}

func (w *plainWire) write(parts [][]byte) error {
	p := bufs.Get().(*[]byte)
	defer bufs.Put(p)
	b := (*p)[:0]
	for _, part := range parts {
		b = append(b, part...)
	}
	*p = b
	_, err := w.device.Write(b)
	return err
}

// bufs holds packets that are made.
var bufs = sync.Pool{New: func() any { return new([]byte) }}
