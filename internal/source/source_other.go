//go:build !linux

package source

import (
	"errors"
	"fmt"
	"syscall"
)

// supported says what the system cannot do.
func (s *Source) supported() error {
	switch {
	case s.Interface != "":
		return fmt.Errorf("choosing an interface needs Linux: %w", errors.ErrUnsupported)
	case s.Mark != 0:
		return fmt.Errorf("a firewall mark needs Linux: %w", errors.ErrUnsupported)
	}
	return nil
}

// Control prepares a socket, for which there is nothing to do here.
func (s *Source) Control(string, string, syscall.RawConn) error { return nil }
