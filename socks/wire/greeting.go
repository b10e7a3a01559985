package wire

import "fmt"

// The protocol versions, the first byte of every first message.
const (
	Version4 = 4
	Version5 = 5
)

// Method is an authentication method of RFC 1928, section 3.
type Method byte

// The methods that argyle knows by name.
const (
	NoAuth       Method = 0    // no authentication required
	GSSAPI       Method = 1    // RFC 1961
	UserPass     Method = 2    // RFC 1929
	NoAcceptable Method = 0xff // what a server answers to an offer it cannot take
)

func (m Method) String() string {
	switch m {
	case NoAuth:
		return "none"
	case GSSAPI:
		return "gssapi"
	case UserPass:
		return "password"
	case NoAcceptable:
		return "no acceptable method"
	}
	return fmt.Sprintf("method %#02x", byte(m))
}

// A Greeting is the client's first message: the methods that it offers
// (RFC 1928, section 3).
//
//	VER NMETHODS METHODS
//	 1     1     0 to 255
type Greeting struct {
	Methods []Method
}

// Append appends the message to b.
func (g Greeting) Append(b []byte) ([]byte, error) {
	if len(g.Methods) > 255 {
		return b, invalid("%d methods, 255 fit", len(g.Methods))
	}
	b = append(b, Version5, byte(len(g.Methods)))
	for _, m := range g.Methods {
		b = append(b, byte(m))
	}
	return b, nil
}

// ParseGreeting reads a Greeting.
func ParseGreeting(b []byte) (g Greeting, n int, err error) {
	if err := checkVersion(b, Version5); err != nil {
		return g, 0, err
	}
	if len(b) < 2 {
		return g, 2, ErrShort
	}
	if n = 2 + int(b[1]); len(b) < n {
		return g, n, ErrShort
	}
	g.Methods = make([]Method, b[1])
	for i := range g.Methods {
		g.Methods[i] = Method(b[2+i])
	}
	return g, n, nil
}

// A Selection is the server's answer to a Greeting.
//
//	VER METHOD
//	 1    1
type Selection struct {
	Method Method
}

// Append appends the message to b.
func (s Selection) Append(b []byte) ([]byte, error) {
	return append(b, Version5, byte(s.Method)), nil
}

// ParseSelection reads a Selection.
func ParseSelection(b []byte) (s Selection, n int, err error) {
	if err := checkVersion(b, Version5); err != nil {
		return s, 0, err
	}
	if len(b) < 2 {
		return s, 2, ErrShort
	}
	return Selection{Method: Method(b[1])}, 2, nil
}

// checkVersion looks at the first byte, if it is there.
func checkVersion(b []byte, want byte) error {
	if len(b) > 0 && b[0] != want {
		return invalid("version %d, want %d", b[0], want)
	}
	return nil
}
