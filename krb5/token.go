package krb5

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// mechanism is the object identifier of Kerberos V5, 1.2.840.113554.1.2.2, with
// its tag and length (RFC 4121, section 4.1).
var mechanism = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}

// tokenID is TOK_ID (RFC 4121, section 4.1).
type tokenID uint16

const (
	tokenRequest tokenID = 0x0100 // KRB_AP_REQ
	tokenReply   tokenID = 0x0200 // KRB_AP_REP
	tokenError   tokenID = 0x0300 // KRB_ERROR
	tokenMIC     tokenID = 0x0404
	tokenWrap    tokenID = 0x0504
)

// spnego is the mechanism that browsers and Windows like to speak first.
var spnego = []byte{0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02}

// appendInitial appends a token of context establishment (RFC 2743, section 3.1).
func appendInitial(dst []byte, id tokenID, body []byte) []byte {
	dst = append(dst, 0x60)
	dst = appendLength(dst, len(mechanism)+2+len(body))
	dst = append(dst, mechanism...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(id))
	return append(dst, body...)
}

// appendLength appends a length of DER.
func appendLength(dst []byte, n int) []byte {
	if n < 0x80 {
		return append(dst, byte(n))
	}
	length := bytes.TrimLeft(binary.BigEndian.AppendUint32(nil, uint32(n)), "\x00")
	return append(append(dst, 0x80|byte(len(length))), length...)
}

// parseInitial takes a token of context establishment apart.
func parseInitial(b []byte) (id tokenID, body []byte, err error) {
	if len(b) < 2 || b[0] != 0x60 {
		return 0, nil, errors.New("no token of the GSS-API")
	}
	size, b, ok := cutLength(b[1:])
	if !ok || size != len(b) {
		return 0, nil, errors.New("the length in the token is not that of the token")
	}
	if bytes.HasPrefix(b, spnego) {
		return 0, nil, errors.New("the token is of SPNEGO, want Kerberos V5 itself")
	}
	if !bytes.HasPrefix(b, mechanism) || len(b) < len(mechanism)+2 {
		return 0, nil, errors.New("the token is not of Kerberos V5")
	}
	b = b[len(mechanism):]
	return tokenID(binary.BigEndian.Uint16(b)), b[2:], nil
}

// cutLength takes a length of DER off b.
func cutLength(b []byte) (n int, rest []byte, ok bool) {
	if b[0] < 0x80 {
		return int(b[0]), b[1:], true
	}
	digits := int(b[0] & 0x7f)
	if digits == 0 || digits > 3 || len(b) < 1+digits {
		return 0, nil, false
	}
	for _, d := range b[1:][:digits] {
		n = n<<8 | int(d)
	}
	return n, b[1+digits:], true
}

// Flags of tokens that protect messages (RFC 4121, section 4.2.2).
const (
	sentByAcceptor = 1 << iota
	sealed
	acceptorSubkey
)

// headerSize is the length of a header.
const headerSize = 16

// header is the beginning of a Wrap token (RFC 4121, section 4.2.6.2), and,
// with fillers for EC and RRC, of a MIC token (section 4.2.6.1).
type header struct {
	id    tokenID
	flags byte
	extra uint16 // EC: the fillers of a sealed token, else the length of the checksum
	right uint16 // RRC: by how many bytes what follows is rotated
	seq   uint64 // SND_SEQ
}

// bytes returns the header as it is sent.
func (h header) bytes() (b [headerSize]byte) {
	binary.BigEndian.PutUint16(b[0:], uint16(h.id))
	b[2], b[3] = h.flags, 0xff
	binary.BigEndian.PutUint16(b[4:], h.extra)
	binary.BigEndian.PutUint16(b[6:], h.right)
	if h.id == tokenMIC {
		copy(b[4:8], "\xff\xff\xff\xff")
	}
	binary.BigEndian.PutUint64(b[8:], h.seq)
	return b
}

// parseHeader reads a header of that kind.
func parseHeader(b []byte, want tokenID) (h header, err error) {
	if len(b) < headerSize {
		return h, fmt.Errorf("token of %d bytes: %w", len(b), errTooShort)
	}
	h.id = tokenID(binary.BigEndian.Uint16(b))
	if h.id != want || b[3] != 0xff {
		return h, fmt.Errorf("token begins with % x, want %04x", b[:4], uint16(want))
	}
	h.flags = b[2]
	h.extra = binary.BigEndian.Uint16(b[4:])
	h.right = binary.BigEndian.Uint16(b[6:])
	h.seq = binary.BigEndian.Uint64(b[8:])
	return h, nil
}

// rotateLeft undoes the rotation of a Wrap token where it is. Windows rotates by
// what its trailer has, which may be all of a short token and more: any count
// must be understood (RFC 4121, section 4.2.5). Nothing protects the count, nor
// need it: a wrong one gives other bytes, and one that is a whole turn off the
// very same.
func rotateLeft(b []byte, n int) {
	if n %= len(b); n > 0 {
		head := append([]byte(nil), b[:n]...)
		copy(b, b[n:])
		copy(b[len(b)-n:], head)
	}
}
