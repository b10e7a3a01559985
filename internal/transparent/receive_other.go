//go:build !linux

package transparent

import (
	"errors"
	"fmt"
	"net"
)

// receiver would read datagrams with their destinations.
func receiver(*net.UDPConn, func([]packet)) (func() error, error) {
	return nil, fmt.Errorf("read original destinations: %w", errors.ErrUnsupported)
}
