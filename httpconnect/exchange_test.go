package httpconnect

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/serve"
)

// inMemory serves s to one client over a connection in memory, so that time is
// the test's own, until test returns.
func inMemory(t *testing.T, s *Server, test func(t *testing.T, client *pipeConn)) {
	synctest.Test(t, func(t *testing.T) {
		feed := serve.NewFeed(&net.TCPAddr{})
		server := s.HTTPServer()
		go server.Serve(feed)
		client, conn := pipe(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, &net.TCPAddr{Port: 2})
		feed.Put(t.Context(), conn)
		test(t, client)
		client.Close()
		server.Close()
		synctest.Wait()
	})
}

// session is a handler whose destination is a function.
func session(destination func(conn net.Conn)) argyle.HandlerFunc {
	return func(_ context.Context, call argyle.Call) {
		conn, err := call.Accept(nil)
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			destination(conn)
		}()
	}
}

// gone waits until the server has closed a connection from which the client
// reads nothing, and says how long that took.
func gone(client *pipeConn) time.Duration {
	start := time.Now()
	for {
		if _, err := client.Write([]byte("x")); err != nil {
			return time.Since(start)
		}
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble
	}
}

// A client that takes nothing of an answer does not stay for ever: a while
// after the session has ended, its connection does.
func TestForwardClientTakesNothing(t *testing.T) {
	var headerRead, ended chan struct{}
	h := session(func(conn net.Conn) {
		defer close(ended)
		readHeader(t, conn)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		<-headerRead                                     // ReverseProxy waits for a mutex till then, which stops the bubble's clock
		conn.SetWriteDeadline(time.Now().Add(time.Hour)) // as the relay's idle time
		io.Copy(conn, zeros{})
	})
	inMemory(t, &Server{Handler: h}, func(t *testing.T, client *pipeConn) {
		headerRead, ended = make(chan struct{}), make(chan struct{}) // of the bubble
		io.WriteString(client, "GET http://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n")
		readHeader(t, client)
		close(headerRead)
		start := time.Now()
		<-ended
		if d := time.Since(start); d != time.Hour {
			t.Errorf("session ended after %v", d)
		}
		if d := gone(client); d < drainTime || d > drainTime+5*time.Second {
			t.Errorf("connection ended after %v", d)
		}
	})
}

func TestForwardUpgradedClientSilent(t *testing.T) {
	h := session(func(conn net.Conn) {
		readHeader(t, conn)
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nbye")
	})
	inMemory(t, &Server{Handler: h}, func(t *testing.T, client *pipeConn) {
		io.WriteString(client, "GET http://a.example/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		readHeader(t, client)
		if got, err := io.ReadAll(client); err != nil || string(got) != "bye" {
			t.Errorf("%q, %v", got, err)
		}
		if d := gone(client); d > drainTime+5*time.Second {
			t.Errorf("connection ended after %v", d)
		}
	})
}

// A client that was refused, or answered early, has a little time to send the
// rest of its body, and keeps its connection if it does.
func TestForwardBodyAfterAnswer(t *testing.T) {
	header := "POST http://a.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
	t.Run("refused", func(t *testing.T) {
		inMemory(t, &Server{Handler: reject(argyle.ErrNotAllowed)}, func(t *testing.T, client *pipeConn) {
			r := bufio.NewReader(client)
			for range 2 {
				io.WriteString(client, header+"0123456789")
				resp, err := http.ReadResponse(r, nil)
				if err != nil || resp.StatusCode != 403 || resp.Close {
					t.Fatalf("%+v, %v", resp, err)
				}
				io.Copy(io.Discard, resp.Body)
			}
			io.WriteString(client, header+"01234")
			start := time.Now()
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != 403 || !resp.Close {
				t.Fatalf("%+v, %v", resp, err)
			}
			io.Copy(io.Discard, resp.Body)
			if d := time.Since(start); d > lingerTime {
				t.Errorf("answered after %v", d)
			}
			if _, err := r.ReadByte(); err != io.EOF {
				t.Errorf("no end: %v", err)
			}
		})
	})
	t.Run("answered", func(t *testing.T) {
		h := session(func(conn net.Conn) {
			readHeader(t, conn)
			io.WriteString(conn, emptyAnswer)
		})
		inMemory(t, &Server{Handler: h}, func(t *testing.T, client *pipeConn) {
			io.WriteString(client, header+"01234")
			start := time.Now()
			got, err := io.ReadAll(client)
			if err != nil || status(t, string(got)) != 200 || !strings.Contains(string(got), "Connection: close\r\n") {
				t.Fatalf("%q, %v", got, err)
			}
			if d := time.Since(start); d > lingerTime+2*settleTime { // net/http's transport has one of its own
				t.Errorf("ended after %v", d)
			}
		})
	})
}

// An answer that breaks off ends the client's connection at once, whatever the
// client still has to send.
func TestForwardBreaksOffAtOnce(t *testing.T) {
	h := session(func(conn net.Conn) {
		readHeader(t, conn)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234")
	})
	inMemory(t, &Server{Handler: h}, func(t *testing.T, client *pipeConn) {
		fmt.Fprint(client, "POST http://a.example/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
		start := time.Now()
		got, _ := io.ReadAll(client)
		if !strings.HasSuffix(string(got), "\r\n\r\n01234") || time.Since(start) != 0 {
			t.Errorf("%q after %v", got, time.Since(start))
		}
	})
}

// inMemoryFed is inMemory behind a listener that gives its clients the time
// handshake.
func inMemoryFed(t *testing.T, s *Server, handshake time.Duration, test func(t *testing.T, client *pipeConn)) {
	synctest.Test(t, func(t *testing.T) {
		ln, feed := serve.NewFeed(&net.TCPAddr{}), serve.NewFeed(&net.TCPAddr{})
		server := s.HTTPServer()
		go server.Serve(feed)
		front := &serve.Server{Handle: func(ctx context.Context, conn net.Conn) {
			serve.Limit(ctx, handshake)
			feed.Put(ctx, conn)
		}}
		go front.Serve(ln)
		client, conn := pipe(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, &net.TCPAddr{Port: 2})
		ln.Put(t.Context(), conn)
		test(t, client)
		client.Close()
		front.Close()
		server.Close()
		synctest.Wait()
	})
}

// How long the first header may take is the listener's to say, be it less or more
// than otherwise. Later ones take no longer than those of other clients.
func TestServerHandshakeTime(t *testing.T) {
	const get = "GET http://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n"
	s := func() *Server { return &Server{Handler: reject(argyle.ErrNotAllowed)} }
	for _, handshake := range []time.Duration{time.Second, time.Minute} {
		inMemoryFed(t, s(), handshake, func(t *testing.T, client *pipeConn) {
			io.WriteString(client, get[:10])
			start := time.Now()
			if got, _ := io.ReadAll(client); time.Since(start) != handshake {
				t.Errorf("%q after %v, want the end after %v", got, time.Since(start), handshake)
			}
		})
	}
	for _, handshake := range []time.Duration{time.Minute, -1} {
		inMemoryFed(t, s(), handshake, func(t *testing.T, client *pipeConn) {
			io.WriteString(client, get[:10])
			time.Sleep(59 * time.Second)
			answers := bufio.NewReader(client)
			for range 2 {
				io.WriteString(client, get[10:])
				resp, err := http.ReadResponse(answers, nil)
				if err != nil || resp.StatusCode != http.StatusForbidden {
					t.Fatalf("%v, %v", resp, err)
				}
				io.Copy(io.Discard, resp.Body)
				time.Sleep(time.Minute) // the time between requests is another
				io.WriteString(client, get[:10])
			}
			start := time.Now()
			if got, _ := io.ReadAll(answers); time.Since(start) != serve.DefaultTimeout {
				t.Errorf("%q after %v", got, time.Since(start))
			}
		})
	}
}

// A client has a bounded time for its header, and between two requests.
func TestServerDeadlines(t *testing.T) {
	s := &Server{Handler: reject(argyle.ErrNotAllowed)}
	inMemory(t, s, func(t *testing.T, client *pipeConn) {
		io.WriteString(client, "CONNECT a")
		start := time.Now()
		if got, err := io.ReadAll(client); strings.Contains(string(got), "200") || err != nil || time.Since(start) != serve.DefaultTimeout {
			t.Errorf("%q, %v after %v", got, err, time.Since(start))
		}
	})
	inMemory(t, s, func(t *testing.T, client *pipeConn) {
		io.WriteString(client, "GET http://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n")
		start := time.Now()
		if got, err := io.ReadAll(client); status(t, string(got)) != 403 || err != nil || time.Since(start) != keepAliveTime {
			t.Errorf("%q, %v after %v", got, err, time.Since(start))
		}
	})
	inMemory(t, s, func(t *testing.T, client *pipeConn) {
		io.WriteString(client, "CONNECT a.example:1 HTTP/1.1\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		if d := gone(client); d > lingerTime+time.Second {
			t.Errorf("a refused client stays for %v", d)
		}
	})
}
