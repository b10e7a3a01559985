package wire

import (
	"encoding/binary"
	"fmt"
)

// gssapiVersion is VER of the messages of RFC 1961.
const gssapiVersion = 1

// A TokenType is MTYP of a message of RFC 1961.
type TokenType byte

// The types of messages.
const (
	ContextToken TokenType = 1    // of context establishment (section 3.4)
	LevelToken   TokenType = 2    // of the negotiation of the protection level (section 4.3)
	DataToken    TokenType = 3    // of what is encapsulated (section 5.1)
	Abort        TokenType = 0xff // the refusal, which has no token (section 3.6)
)

// A ProtectionLevel says how messages are protected once a context of the
// GSS-API is established (RFC 1961, section 4.2).
type ProtectionLevel byte

// The levels. Clear is not in the RFC, but servers and clients have it.
const (
	Clear           ProtectionLevel = 0 // not at all: what follows travels bare
	Integrity       ProtectionLevel = 1
	Confidentiality ProtectionLevel = 2 // and integrity
	Selective       ProtectionLevel = 3 // as each side wishes for each message
)

func (l ProtectionLevel) String() string {
	switch l {
	case Clear:
		return "clear"
	case Integrity:
		return "integrity"
	case Confidentiality:
		return "confidentiality"
	}
	return "selective"
}

// ParseProtectionLevel reads the name of a level, or its number.
func ParseProtectionLevel(s string) (ProtectionLevel, error) {
	for l := Clear; l <= Confidentiality; l++ {
		if s == l.String() || s == string('0'+rune(l)) {
			return l, nil
		}
	}
	return 0, fmt.Errorf("protection level %q, want clear, integrity or confidentiality", s)
}

// MaxToken is the length of the longest token.
const MaxToken = 1<<16 - 1

// A TokenHeader begins a message of RFC 1961, sections 3.4, 4.3 and 5.1, which
// all look alike. The token follows, of Len bytes. The message of section 3.6
// is only the beginning of a header.
//
//	VER MTYP LEN   TOKEN
//	 1   1    2  up to 65535
type TokenHeader struct {
	Type TokenType
	Len  int // 0 for [Abort]
}

// Append appends the header to b.
func (h TokenHeader) Append(b []byte) ([]byte, error) {
	if h.Len < 0 || h.Len > MaxToken || h.Type == Abort && h.Len > 0 {
		return b, invalid("a token of %d bytes, %d fit", h.Len, MaxToken)
	}
	b = append(b, gssapiVersion, byte(h.Type))
	if h.Type == Abort {
		return b, nil
	}
	return binary.BigEndian.AppendUint16(b, uint16(h.Len)), nil
}

// ParseTokenHeader reads a TokenHeader.
func ParseTokenHeader(b []byte) (h TokenHeader, n int, err error) {
	if len(b) > 0 && b[0] != gssapiVersion {
		return h, 0, invalid("GSS-API version %d, want %d", b[0], gssapiVersion)
	}
	if len(b) < 2 {
		return h, 2, ErrShort
	}
	switch t := TokenType(b[1]); t {
	case Abort:
		return TokenHeader{Type: t}, 2, nil
	case ContextToken, LevelToken, DataToken:
		if len(b) < 4 {
			return h, 4, ErrShort
		}
		return TokenHeader{Type: t, Len: int(binary.BigEndian.Uint16(b[2:]))}, 4, nil
	}
	return h, 0, invalid("GSS-API message of type %d, want 1, 2, 3 or 255", b[1])
}
