package argyle

import (
	"errors"
	"net"
)

// isClosed reports whether err says that a socket is closed.
func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
