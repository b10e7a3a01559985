package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
)

// startCarrier is a whole argyle: a SOCKS server whose sessions leave by way.
func startCarrier(t *testing.T, carrier *proxy.Proxy, way argyle.Dialer) *socks.Dialer {
	t.Helper()
	carrier.Policy = proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) { return way, nil })
	ln := listen(t)
	server := &socks.Server{Handler: carrier}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() {
		server.Close()
		carrier.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(server.Shutdown(ctx), carrier.Shutdown(ctx)); err != nil {
			t.Error(err)
		}
		running.Wait()
	})
	return &socks.Dialer{Addr: ln.Addr().String()}
}

// Sessions through a group and an SSH server end as they should: in order, for idleness, and by a cut; and what a group
// counts returns to nothing.
func TestCarried(t *testing.T) {
	t.Parallel()
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	s, plain := startSSH(t), startMortal(t)
	far, err := Chain([]string{plain.addr})
	if err != nil {
		t.Fatal(err)
	}
	for name, way := range map[string]argyle.Dialer{"ssh": s.dialer(t), "socks": far} {
		t.Run(name, func(t *testing.T) {
			g := &Group{Name: "g", Members: []*Member{{Dialer: way}}}
			none := func() bool { return g.Status()[0].Sessions == 0 }

			client := startCarrier(t, &proxy.Proxy{}, g)
			conn := sshTo(t, client, dest)
			payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
			go func() {
				_, _ = conn.Write(payload)
				_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			}()
			_ = conn.SetDeadline(time.Now().Add(patience))
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			conn.Close()
			eventually(t, "the session to end", none)

			idle := startCarrier(t, &proxy.Proxy{Timeouts: proxy.Timeouts{Idle: 100 * time.Millisecond}}, g)
			conn = sshTo(t, idle, dest)
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("an idle session ended with %v", err)
			}
			eventually(t, "the idle session to end", none)

			carrier := new(proxy.Proxy)
			conn = sshTo(t, startCarrier(t, carrier, g), dest)
			pingPong(t, conn)
			carrier.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := conn.Read(make([]byte, 1)); err == nil || timedOut(err) {
				t.Errorf("a session that was cut ended with %v", err)
			}
			eventually(t, "the session that was cut to end", none)
		})
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}
