package users

import (
	"errors"
	"strings"
)

// maxField is what the length bytes of RFC 1929, section 2, can say.
const maxField = 255

const byteOrderMark = "\ufeff"

// checkName says what keeps name from being a user's name in the file.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > maxField:
		return errors.New("the name is longer than 255 bytes, which SOCKS cannot carry")
	case strings.HasPrefix(name, byteOrderMark):
		return errors.New("the name begins with a byte order mark: save the file without it")
	case strings.Contains(name, ":"):
		return errors.New("the name has a colon, which separates name and hash")
	case strings.IndexFunc(name, isControl) >= 0:
		return errors.New("the name has a control character")
	case name[0] == '#':
		return errors.New("the name begins with #, which begins a comment")
	case name[0] == ' ' || name[len(name)-1] == ' ':
		return errors.New("the name begins or ends with a space")
	}
	return nil
}

// checkPassword says what keeps password from being one that clients can send.
func checkPassword(password string) error {
	switch {
	case password == "":
		return errors.New("the password is empty")
	case len(password) > maxField:
		return errors.New("the password is longer than 255 bytes, which SOCKS cannot carry")
	case strings.IndexFunc(password, isControl) >= 0:
		return errors.New("the password has a control character")
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
