package wire

import "github.com/argyle-socks/argyle"

// A Header comes before the payload of every datagram between client and
// relay (RFC 1928, section 7).
//
//	RSV FRAG ATYP DST.ADDR DST.PORT DATA
//	 2   1    1   variable    2     variable
type Header struct {
	Frag Frag
	Addr argyle.Addr // the destination on the way up, the source on the way down
}

// Frag is the field FRAG: 0 for a datagram that stands alone, else the
// position of a fragment, 1 to 127, and the mark of the last.
type Frag byte

// Position returns the place of the fragment in its sequence, 1 to 127; 0 for
// a datagram that stands alone.
func (f Frag) Position() int { return int(f & 0x7f) }

// Last reports whether the fragment ends its sequence.
func (f Frag) Last() bool { return f&0x80 != 0 }

// MaxHeader is the length of the longest Header.
const MaxHeader = 2 + 1 + 1 + 1 + 255 + 2

// Append appends the header to b.
func (h Header) Append(b []byte) ([]byte, error) {
	return appendAddr(b, [3]byte{0, 0, byte(h.Frag)}, h.Addr)
}

// ParseHeader reads a Header; the payload is b[n:]. It does not look at RSV.
func ParseHeader(b []byte) (h Header, n int, err error) {
	if len(b) < 3 {
		return h, 3 + 1 + 1 + 2, ErrShort
	}
	a, n, err := parseAddr(b[3:])
	if err != nil && err != ErrShort {
		return h, 0, err
	}
	return Header{Frag: Frag(b[2]), Addr: a}, 3 + n, err
}
