package relay

import (
	"io"
	"net"
	"sync"
	"testing"
)

// engines are ours and, to compare, io.Copy as every proxy in Go has it.
var engines = []struct {
	name  string
	start func(b *testing.B, client, upstream net.Conn) (ended func())
}{
	{"relay", func(b *testing.B, client, upstream net.Conn) func() {
		done := make(chan struct{})
		p := &Pair{Client: client, Upstream: upstream, Done: func(error) { close(done) }}
		p.Start()
		return func() { <-done }
	}},
	{"io.Copy", func(b *testing.B, client, upstream net.Conn) func() {
		var wg sync.WaitGroup
		for _, c := range [][2]net.Conn{{client, upstream}, {upstream, client}} {
			wg.Go(func() {
				io.Copy(c[0], c[1])
				c[0].(conn).CloseWrite()
			})
		}
		return func() {
			wg.Wait()
			client.Close()
			upstream.Close()
		}
	}},
}

// benchmark runs one over some pairings and both engines. It gets the far ends.
func benchmark(b *testing.B, run func(b *testing.B, client, upstream conn)) {
	for _, p := range []pairing{{tcp, tcp}, {tcp, unixes}, {secure, tcp}, {memory, memory}} {
		for _, engine := range engines {
			b.Run(p.String()+"/"+engine.name, func(b *testing.B) {
				client, near := p.client.open(b)
				upstream, far := p.upstream.open(b)
				ended := engine.start(b, near, far)
				b.ReportAllocs()
				run(b, client, upstream)
				b.StopTimer()
				client.CloseWrite()
				upstream.CloseWrite()
				ended()
			})
		}
	}
}

// Bulk, 1 MiB an operation.
func BenchmarkBulk(b *testing.B) {
	benchmark(b, func(b *testing.B, client, upstream conn) {
		piece := make([]byte, 1<<20)
		sink := make([]byte, 1<<20)
		var writer sync.WaitGroup
		b.SetBytes(1 << 20)
		b.ResetTimer()
		writer.Go(func() {
			for range b.N {
				if _, err := client.Write(piece); err != nil {
					b.Error(err)
				}
			}
		})
		for range b.N {
			if _, err := io.ReadFull(upstream, sink); err != nil {
				b.Fatal(err)
			}
		}
		writer.Wait()
	})
}

// A message of 64 bytes there and back an operation.
func BenchmarkPingPong(b *testing.B) {
	benchmark(b, func(b *testing.B, client, upstream conn) {
		var echo sync.WaitGroup
		echo.Go(func() {
			msg := make([]byte, 64)
			for range b.N {
				if _, err := io.ReadFull(upstream, msg); err != nil {
					b.Error(err)
					return
				}
				if _, err := upstream.Write(msg); err != nil {
					b.Error(err)
					return
				}
			}
		})
		msg := make([]byte, 64)
		b.ResetTimer()
		for range b.N {
			if _, err := client.Write(msg); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(client, msg); err != nil {
				b.Fatal(err)
			}
		}
		echo.Wait()
	})
}

// A session of one message each way, from Start to Done.
func BenchmarkShort(b *testing.B) {
	for _, engine := range engines {
		b.Run(engine.name, func(b *testing.B) {
			msg := make([]byte, 100)
			b.ReportAllocs()
			for range b.N {
				b.StopTimer()
				client, near := openTCP(b)
				upstream, far := openTCP(b)
				b.StartTimer()
				ended := engine.start(b, near, far)
				for _, c := range [][2]conn{{client, upstream}, {upstream, client}} {
					if _, err := c[0].Write(msg); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(c[1], msg); err != nil {
						b.Fatal(err)
					}
				}
				client.CloseWrite()
				upstream.CloseWrite()
				ended()
				b.StopTimer()
				client.Close()
				upstream.Close()
			}
		})
	}
}
