package transparent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/serve"
)

// ErrServerClosed is what Serve and Hold return after Shutdown or Close.
var ErrServerClosed = serve.ErrServerClosed

// errNotAnswered rejects a call that its handler has forgotten.
var errNotAnswered = errors.New("not answered")

// A Server makes a CONNECT of every TCP connection that comes to its
// listeners. Its fields are not to be changed once it serves.
type Server struct {
	// Handler answers the calls.
	Handler argyle.Handler

	// Dest says where a connection was to go; nil means [LocalAddr].
	Dest func(net.Conn) (argyle.Addr, error)

	// Name returns the name that an address stands for, and whether it is
	// one of those that stand for names: without a name it is refused. nil
	// means that every address is just that.
	Name func(netip.Addr) (name string, fake bool)

	// Realms are asked before Name.
	Realms []Realm

	// Inbound is what rules and logs call the way in; "" means the name of
	// the listener. A call that Hold makes has no listener.
	Inbound string

	// MaxHeld bounds the SYNs that Hold keeps waiting. What comes beyond is
	// accepted before it is dialled, and counted. 0 means 1024.
	MaxHeld int

	// Log takes what an operator should know; nil discards it.
	Log *slog.Logger

	once  sync.Once
	serve serve.Server
	hold  holder
	ports sync.Map // of the listeners
}

// Serve accepts connections from ln, which it closes, until Shutdown or Close,
// and then returns [ErrServerClosed]. It may be called for several listeners.
func (s *Server) Serve(ln net.Listener) error {
	s.ports.Store(argyle.AddrOf(ln.Addr()).Port, true)
	return s.server().Serve(ln)
}

// Shutdown stops listening and holding, and waits for the calls that are not
// answered yet. When ctx ends first, they are cut and the error of ctx returned.
func (s *Server) Shutdown(ctx context.Context) error {
	// The calls that are held need the listeners.
	held := s.hold.shutdown(ctx)
	if err := s.server().Shutdown(ctx); err != nil {
		return err
	}
	return held
}

// Close stops listening and holding, and cancels the calls.
func (s *Server) Close() error {
	s.hold.close()
	return s.server().Close()
}

func (s *Server) server() *serve.Server {
	s.once.Do(func() {
		s.serve.Handle = s.handle
		s.serve.Log = s.Log
	})
	return &s.serve
}

// handle serves one connection.
func (s *Server) handle(ctx context.Context, conn net.Conn) {
	serve.Established(ctx) // there is no handshake to wait for
	if s.hold.take(conn) {
		return
	}
	c := &call{conn: conn}
	dest, inbound, err := s.dest(conn)
	if inbound == "" {
		inbound = serve.Inbound(ctx)
	}
	c.request = s.request(dest, argyle.AddrOf(conn.RemoteAddr()).AddrPort(), inbound)
	if err != nil {
		s.refused(&c.request, err)
		c.Reject(err)
		return
	}
	s.Handler.ServeCall(ctx, c)
	if !c.answered {
		c.Reject(errNotAnswered)
	}
}

// dest returns where a connection was to go, and by which way in if that is not
// the usual one.
func (s *Server) dest(conn net.Conn) (dest argyle.Addr, inbound string, err error) {
	if s.Dest != nil {
		if dest, err = s.Dest(conn); err != nil {
			return dest, s.Inbound, err
		}
		return s.located(dest)
	}
	if dest, err = LocalAddr(conn); err != nil {
		return dest, s.Inbound, err
	}
	if _, ours := s.ports.Load(dest.Port); ours && isOwn(dest.IP) {
		return dest, s.Inbound, errLoop
	}
	return s.located(dest)
}

// located returns what dest stands for, and by which way in.
func (s *Server) located(dest argyle.Addr) (_ argyle.Addr, inbound string, err error) {
	if realm, ip := realmOf(s.Realms, dest.IP); realm != nil {
		return argyle.Addr{IP: ip, Port: dest.Port}, realm.Inbound, nil
	}
	dest, err = named(s.Name, dest)
	return dest, s.Inbound, err
}

// isOwn reports whether an address is one of this system's.
func isOwn(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(addrs, func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		return ok && prefix.IP.Equal(ip.AsSlice())
	})
}

// request returns the request of one call.
func (s *Server) request(dest argyle.Addr, client netip.AddrPort, inbound string) argyle.Request {
	return argyle.Request{Command: argyle.Connect, Dest: dest, Client: client, Inbound: inbound}
}

// refused tells of a call that no handler sees.
func (s *Server) refused(req *argyle.Request, err error) {
	if s.Log != nil {
		s.Log.Info("connection refused", "client", req.Client.String(), "dest", req.Dest.String(), "err", err)
	}
}

// call is a connection that was accepted before anybody was asked.
type call struct {
	argyle.ConnectOnly
	conn     net.Conn
	request  argyle.Request
	answered bool
}

var _ argyle.Call = (*call)(nil)

func (c *call) Request() *argyle.Request { return &c.request }

// Accept returns the connection as it is: the client hears nothing.
func (c *call) Accept(net.Addr) (net.Conn, error) {
	c.answered = true
	return c.conn, nil
}

// Reject resets the connection: the only word for it, now that it stands.
func (c *call) Reject(error) {
	c.answered = true
	reset(c.conn)
}

// reset ends a connection with a RST.
func reset(conn net.Conn) {
	if l, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	conn.Close()
}
