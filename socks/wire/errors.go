package wire

import (
	"errors"
	"fmt"
)

// ErrShort is returned by Parse functions for the beginning of a message.
var ErrShort = errors.New("message is cut short")

// ErrMessage is what every other error of a Parse function is: the bytes can
// not begin a valid message.
var ErrMessage = errors.New("invalid message")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMessage, fmt.Sprintf(format, args...))
}

// An AddrTypeError is an ATYP that RFC 1928 does not know; it deserves the
// reply [AddrTypeNotSupported].
type AddrTypeError byte

func (e AddrTypeError) Error() string { return fmt.Sprintf("unknown address type %#02x", byte(e)) }

// Is reports that the error is an [ErrMessage] and the reply [AddrTypeNotSupported].
func (e AddrTypeError) Is(target error) bool {
	return target == ErrMessage || target == AddrTypeNotSupported
}
