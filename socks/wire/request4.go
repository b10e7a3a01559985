package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/argyle-socks/argyle"
)

// A Request4 is what a SOCKS 4 client wants. If Dest is a name it is a SOCKS 4a
// request: DSTIP is 0.0.0.1 and the name follows USERID.
//
//	VN CD DSTPORT DSTIP USERID NUL [NAME NUL]
//	 1  1    2      4   variable
type Request4 struct {
	Command argyle.Command
	Dest    argyle.Addr
	UserID  string
}

// maxUserID bounds USERID, whose length the memo leaves open.
const maxUserID = 255

// Append appends the message to b. SOCKS 4 has no IPv6 addresses.
func (r Request4) Append(b []byte) ([]byte, error) {
	ip := [4]byte{0, 0, 0, 1}
	switch dest := r.Dest.IP.Unmap(); {
	case dest.Is4():
		ip = dest.As4()
		if isName4(ip) {
			return b, invalid("address %v stands for a name in SOCKS 4a", dest)
		}
	case dest.IsValid():
		return b, invalid("IPv6 address %v in SOCKS 4", dest)
	case r.Dest.Name == "":
		return b, invalid("no address")
	}
	if err := checkText4("USERID", r.UserID); err != nil {
		return b, err
	}
	if err := checkText4("name", r.Dest.Name); err != nil {
		return b, err
	}
	b = append(b, Version4, byte(r.Command))
	b = binary.BigEndian.AppendUint16(b, r.Dest.Port)
	b = append(b, ip[:]...)
	b = append(append(b, r.UserID...), 0)
	if !r.Dest.IP.IsValid() {
		b = append(append(b, r.Dest.Name...), 0)
	}
	return b, nil
}

func checkText4(field, s string) error {
	if len(s) > 255 {
		return invalid("%s of %d bytes, 255 fit", field, len(s))
	}
	if bytes.IndexByte([]byte(s), 0) >= 0 {
		return invalid("%s with a zero byte", field)
	}
	return nil
}

// isName4 reports whether DSTIP is 0.0.0.x with x not zero: the mark of 4a.
func isName4(ip [4]byte) bool {
	return ip[0] == 0 && ip[1] == 0 && ip[2] == 0 && ip[3] != 0
}

// ParseRequest4 reads a SOCKS 4 or 4a request. USERID and the name have no
// length, so that on ErrShort it asks for one byte more than it has. It does
// not look at CD, whose unknown values deserve an answer of their own.
func ParseRequest4(b []byte) (r Request4, n int, err error) {
	if err := checkVersion(b, Version4); err != nil {
		return r, 0, err
	}
	if len(b) < 9 {
		return r, 9, ErrShort
	}
	ip := [4]byte(b[4:])
	r.Command = argyle.Command(b[1])
	r.Dest.Port = binary.BigEndian.Uint16(b[2:])
	if r.UserID, n, err = parseText4("USERID", b, 8); err != nil {
		return r, n, err
	}
	if !isName4(ip) {
		r.Dest.IP = netip.AddrFrom4(ip)
		return r, n, nil
	}
	r.Dest.Name, n, err = parseText4("name", b, n)
	return r, n, err
}

// parseText4 reads a text that begins at b[from] and ends in a zero byte.
func parseText4(field string, b []byte, from int) (s string, n int, err error) {
	i := bytes.IndexByte(b[from:], 0)
	if i > maxUserID || i < 0 && len(b)-from > maxUserID {
		return "", 0, invalid("%s longer than %d bytes", field, maxUserID)
	}
	if i < 0 {
		return "", len(b) + 1, ErrShort
	}
	return string(b[from:][:i]), from + i + 1, nil
}

// A Response4 is the server's answer to a Request4. The first field, VN, is 0.
//
//	VN CD DSTPORT DSTIP
//	 1  1    2      4
type Response4 struct {
	Reply Reply4
	Bound argyle.Addr // an IPv6 address becomes 0.0.0.0, as does a name
}

// Append appends the message to b.
func (r Response4) Append(b []byte) ([]byte, error) {
	b = binary.BigEndian.AppendUint16(append(b, 0, byte(r.Reply)), r.Bound.Port)
	var ip [4]byte
	if bound := r.Bound.IP.Unmap(); bound.Is4() {
		ip = bound.As4()
	}
	return append(b, ip[:]...), nil
}

// ParseResponse4 reads a Response4. A VN of 4, which some servers send, passes.
func ParseResponse4(b []byte) (r Response4, n int, err error) {
	if len(b) > 0 && b[0] != 0 && b[0] != Version4 {
		return r, 0, invalid("version %d in a SOCKS 4 reply, want 0", b[0])
	}
	if len(b) < 8 {
		return r, 8, ErrShort
	}
	r.Reply = Reply4(b[1])
	r.Bound = argyle.Addr{IP: netip.AddrFrom4([4]byte(b[4:])), Port: binary.BigEndian.Uint16(b[2:])}
	return r, 8, nil
}
