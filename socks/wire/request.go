package wire

import (
	"net/netip"

	"github.com/argyle-socks/argyle"
)

// A Request is what the client wants (RFC 1928, section 4).
//
//	VER CMD RSV ATYP DST.ADDR DST.PORT
//	 1   1   1   1   variable    2
type Request struct {
	Command argyle.Command
	Dest    argyle.Addr
}

// Append appends the message to b.
func (r Request) Append(b []byte) ([]byte, error) {
	return appendAddr(b, [3]byte{Version5, byte(r.Command), 0}, r.Dest)
}

// ParseRequest reads a Request. It looks neither at RSV nor at CMD, whose
// unknown values deserve an answer of their own.
func ParseRequest(b []byte) (r Request, n int, err error) {
	command, dest, n, err := parseAfterVersion(b)
	return Request{Command: argyle.Command(command), Dest: dest}, n, err
}

// A Response is the server's answer to a Request (RFC 1928, section 6). A
// Bound that is nowhere becomes the IPv4 address of zeros; Bound is never a
// name, which clients do not understand.
//
//	VER REP RSV ATYP BND.ADDR BND.PORT
//	 1   1   1   1   variable    2
type Response struct {
	Reply Reply
	Bound argyle.Addr
}

// Append appends the message to b.
func (r Response) Append(b []byte) ([]byte, error) {
	if !r.Bound.IP.IsValid() {
		r.Bound = argyle.Addr{IP: netip.IPv4Unspecified(), Port: r.Bound.Port}
	}
	return appendAddr(b, [3]byte{Version5, byte(r.Reply), 0}, r.Bound)
}

// ParseResponse reads a Response, which from some servers has a name as Bound.
func ParseResponse(b []byte) (r Response, n int, err error) {
	reply, bound, n, err := parseAfterVersion(b)
	return Response{Reply: Reply(reply), Bound: bound}, n, err
}

// parseAfterVersion reads what Request and Response have in common: VER, a
// byte, RSV and an address.
func parseAfterVersion(b []byte) (code byte, a argyle.Addr, n int, err error) {
	if err := checkVersion(b, Version5); err != nil {
		return 0, a, 0, err
	}
	if len(b) < 3 {
		return 0, a, 3 + 1 + 1 + 2, ErrShort
	}
	a, n, err = parseAddr(b[3:])
	if err != nil && err != ErrShort {
		return b[1], a, 0, err
	}
	return b[1], a, 3 + n, err
}
