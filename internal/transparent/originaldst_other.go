//go:build !linux

package transparent

import (
	"errors"
	"fmt"
	"net"

	"github.com/argyle-socks/argyle"
)

// OriginalDst is a [Server.Dest] for REDIRECT, which is Linux's.
func OriginalDst(net.Conn) (argyle.Addr, error) {
	return argyle.Addr{}, fmt.Errorf("original destination: %w", errors.ErrUnsupported)
}
