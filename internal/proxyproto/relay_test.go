package proxyproto

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/argyle-socks/argyle/internal/relay"
	"github.com/argyle-socks/argyle/internal/serve"
)

// After the handshake the relay works on the bare connection, and nothing is
// lost: neither what came with the header, nor what the handshake put back.
func TestRelay(t *testing.T) {
	payload := make([]byte, 1<<20)
	rnd := rand.NewChaCha8([32]byte{})
	_, _ = rnd.Read(payload)
	for _, version := range []byte{1, 2} {
		for _, ahead := range []int{1, 4, 100, 300, 5000} {
			client, inbound := pipe(t)
			far, upstream := pipe(t)
			var sender sync.WaitGroup
			sender.Go(func() {
				head := append(header(t, version, "192.0.2.7:4711", "198.51.100.1:1080"), "hello"...)
				_, _ = client.Write(append(head, payload[:ahead]...)) // all in one segment, or nearly
				_, _ = client.Write(payload[ahead:])
				_ = client.(*net.TCPConn).CloseWrite()
			})
			conn := Accept(inbound, loopback)
			hello := make([]byte, 7) // two bytes more than the handshake needs
			if _, err := io.ReadFull(conn, hello); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			pair := &relay.Pair{Client: serve.Unread(conn, hello[5:]), Upstream: upstream, Done: func(err error) { ended <- err }}
			pair.Start()
			go func() {
				_, _ = far.Write(payload)
				_ = far.(*net.TCPConn).CloseWrite()
			}()
			var up, down []byte
			var readers sync.WaitGroup
			readers.Go(func() { up, _ = io.ReadAll(far) })
			readers.Go(func() { down, _ = io.ReadAll(client) })
			readers.Wait()
			sender.Wait()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			for name, got := range map[string][]byte{"up": up, "down": down} {
				if !bytes.Equal(got, payload) {
					t.Errorf("version %d, %d ahead: %d bytes go %s, %x", version, ahead, len(got), name, sha256.Sum256(got))
				}
			}
		}
	}
}
