package wire

// userPassVersion is VER of the messages of RFC 1929, which is not the version
// of SOCKS.
const userPassVersion = 1

// A Login is the client's message of RFC 1929, section 2. Either field may be
// empty on the wire, though the RFC says 1 to 255: Java sends empty passwords.
//
//	VER ULEN  UNAME   PLEN  PASSWD
//	 1   1   0 to 255  1   0 to 255
type Login struct {
	User, Password string
}

// Append appends the message to b.
func (l Login) Append(b []byte) ([]byte, error) {
	if len(l.User) > 255 || len(l.Password) > 255 {
		return b, invalid("user name and password of %d and %d bytes, 255 each fit", len(l.User), len(l.Password))
	}
	b = append(b, userPassVersion, byte(len(l.User)))
	b = append(b, l.User...)
	b = append(b, byte(len(l.Password)))
	return append(b, l.Password...), nil
}

// ParseLogin reads a Login. It takes the VER 5 of some clients for a 1.
func ParseLogin(b []byte) (l Login, n int, err error) {
	if len(b) > 0 && b[0] != userPassVersion && b[0] != Version5 {
		return l, 0, invalid("username/password version %d, want 1", b[0])
	}
	if len(b) < 2 {
		return l, 3, ErrShort
	}
	ulen := int(b[1])
	if n = 2 + ulen + 1; len(b) < n {
		return l, n, ErrShort
	}
	if n += int(b[n-1]); len(b) < n {
		return l, n, ErrShort
	}
	return Login{User: string(b[2:][:ulen]), Password: string(b[2+ulen+1 : n])}, n, nil
}

// A LoginStatus is the server's answer to a Login: 0 is success.
//
//	VER STATUS
//	 1    1
type LoginStatus struct {
	Status byte
}

// Append appends the message to b.
func (s LoginStatus) Append(b []byte) ([]byte, error) {
	return append(b, userPassVersion, s.Status), nil
}

// ParseLoginStatus reads a LoginStatus. Its VER is not looked at: servers that
// send 0 or 5 are common, and STATUS alone decides.
func ParseLoginStatus(b []byte) (s LoginStatus, n int, err error) {
	if len(b) < 2 {
		return s, 2, ErrShort
	}
	return LoginStatus{Status: b[1]}, 2, nil
}
