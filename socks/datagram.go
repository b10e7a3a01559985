package socks

import (
	"net/netip"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/udp"
	"github.com/argyle-socks/argyle/socks/wire"
)

// outgoing is a batch of datagrams with their headers, ready to be sent. Both
// sides use it: the server towards its client, the client towards its relay.
type outgoing struct {
	ms      []udp.Message
	headers []byte // or, if they are protected, whole datagrams
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// add appends a datagram with its header, for the socket at to, encapsulated
// if p is not nil. One whose address has no form on the wire is left out, as is
// one that has become too long.
func (o *outgoing) add(d argyle.Datagram, to netip.AddrPort, p *protection) {
	// Growing moves headers, but messages keep the memory they point to.
	start := len(o.headers)
	headers, err := appendDatagram(o.headers, d, p)
	if err != nil {
		return
	}
	o.headers = headers
	m := udp.Message{Head: headers[start:], Payload: d.Payload, Addr: to}
	if p != nil {
		m.Head, m.Payload = nil, m.Head
	}
	o.ms = append(o.ms, m)
}

// appendDatagram appends the header of a datagram to b; or, if p is not nil,
// all of it encapsulated (RFC 1961, section 5.2).
func appendDatagram(b []byte, d argyle.Datagram, p *protection) ([]byte, error) {
	header := wire.Header{Addr: d.Addr}
	if p == nil {
		return header.Append(b)
	}
	plain := plains.Get().(*[]byte)
	defer plains.Put(plain)
	var err error
	if *plain, err = header.Append((*plain)[:0]); err != nil {
		return b, err
	}
	*plain = append(*plain, d.Payload...)
	start := len(b)
	b, err = p.seal(b, *plain)
	if err == nil && len(b)-start > maxDatagram {
		return b[:start], errTooLong
	}
	return b, err
}

// maxDatagram is the longest payload of UDP over IPv4.
const maxDatagram = 1<<16 - 1 - 20 - 8

// plains holds memory for datagrams that are about to be protected.
var plains = sync.Pool{New: func() any { return new([]byte) }}

func (o *outgoing) release() {
	clear(o.ms)
	o.ms, o.headers = o.ms[:0], o.headers[:0]
	outgoings.Put(o)
}

// reassembly puts fragments together as RFC 1928, section 7, has it: one
// sequence at a time, in order, abandoned when its timer ends or when a
// datagram with a lower FRAG arrives.
type reassembly struct {
	mu     sync.Mutex
	buf    []byte
	addr   argyle.Addr
	last   int // the highest position so far; 0 while there is no sequence
	expiry *time.Timer
}

// reassemblyTime is the REASSEMBLY TIMER, which must be no less than 5 seconds.
const reassemblyTime = 5 * time.Second

// add takes the payload of one datagram. It returns a payload that is whole, or
// nil if more is to come; it reports false if the datagram is dropped.
func (r *reassembly) add(h wire.Header, payload []byte) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	position := h.Frag.Position()
	if position < r.last {
		r.reset()
	}
	switch {
	case h.Frag == 0:
		return whole(payload), true
	case position != r.last+1, r.last > 0 && h.Addr != r.addr,
		len(r.buf)+len(payload) > argyle.MaxDatagram:
		// A gap, a repetition, another destination, or too long: the
		// sequence can no longer become whole. A repetition of what is
		// there does no harm.
		if position != r.last {
			r.reset()
		}
		return nil, false
	}
	if r.last == 0 {
		r.addr = h.Addr
		r.begin()
	}
	r.last = position
	r.buf = append(r.buf, payload...)
	if !h.Frag.Last() {
		return nil, true
	}
	complete := r.buf
	r.reset()
	return whole(complete), true
}

// whole makes a payload of no bytes different from none.
func whole(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// begin starts the timer of a sequence. r.mu is held.
func (r *reassembly) begin() {
	var timer *time.Timer
	timer = time.AfterFunc(reassemblyTime, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.expiry == timer { // it may have fired as its sequence ended
			r.reset()
		}
	})
	r.expiry = timer
}

// reset abandons the sequence and its memory. r.mu is held.
func (r *reassembly) reset() {
	if r.expiry != nil {
		r.expiry.Stop()
	}
	r.buf, r.last, r.expiry = nil, 0, nil
}
