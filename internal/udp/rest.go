package udp

import (
	"bytes"
	"net"
	"sync"
)

// rest are datagrams that were read with one that was wanted.
type rest struct {
	reading sync.Mutex // held by who reads one
	mu      sync.Mutex
	ms      []Message
}

// take returns all of them.
func (r *rest) take() []Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	ms := r.ms
	r.ms = nil
	return ms
}

// readFrom returns the first, or one of the next batch, and keeps the others.
func (r *rest) readFrom(readBatch func(func([]Message)) error, b []byte) (n int, from net.Addr, err error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	ms := r.take()
	for len(ms) == 0 {
		err := readBatch(func(got []Message) {
			for _, m := range got {
				ms = append(ms, Message{Payload: bytes.Clone(m.Payload), Addr: m.Addr})
			}
		})
		if err != nil {
			return 0, nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ms = ms[1:]
	return copy(b, ms[0].Payload), net.UDPAddrFromAddrPort(ms[0].Addr), nil
}
