package httpconnect

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// rawOrigin answers every request with answer, and passes on what it got.
func rawOrigin(t testing.TB, answer string) (addr string, requests <-chan string) {
	got := make(chan string, 16)
	addr = peer(t, func(conn *net.TCPConn) {
		r := bufio.NewReader(conn)
		var b bytes.Buffer
		req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(r, &b)))
		if err != nil {
			t.Error(err)
			return
		}
		io.Copy(io.Discard, req.Body)
		got <- b.String()
		io.WriteString(conn, answer)
		conn.CloseWrite()
		io.Copy(io.Discard, r)
	})
	return addr, got
}

const emptyAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

func TestForwardRequest(t *testing.T) {
	dest, requests := rawOrigin(t, emptyAnswer)
	h := new(relay)
	addr := start(t, &Server{Handler: h, Login: func(context.Context, netip.Addr, string, string) error { return nil }})
	answer := ask(t, addr, strings.ReplaceAll(strings.Join([]string{
		"GET http://DEST/a%2fb^c?x=1;y=%zz HTTP/1.1",
		"Host: other.example",
		"Proxy-Authorization: Basic YW5uOnNlY3JldA==",
		"Proxy-Connection: keep-alive",
		"Connection: X-Hop, close",
		"Keep-Alive: timeout=5",
		"TE: gzip",
		"X-Hop: 1",
		"X-Forwarded-For: 192.0.2.7",
		"Accept: */*",
		"", "",
	}, "\r\n"), "DEST", dest))
	if got := status(t, answer); got != 200 {
		t.Fatalf("answer %q", answer)
	}
	want := strings.Join([]string{
		"GET /a%2fb^c?x=1;y=%zz HTTP/1.1",
		"Host: " + dest,
		"Accept: */*",
		"X-Forwarded-For: 192.0.2.7",
		"Connection: close",
		"", "",
	}, "\r\n")
	if got := <-requests; got != want {
		t.Errorf("the origin got\n%s\nwant\n%s", got, want)
	}
	req := h.seen()[0]
	if req.User != "ann" || req.Command != argyle.Connect || req.Dest.String() != dest || !req.Client.IsValid() {
		t.Errorf("request %+v", req)
	}
}

func TestForwardTarget(t *testing.T) {
	dest, requests := rawOrigin(t, emptyAnswer)
	addr := start(t, &Server{Handler: new(relay)})
	tests := []struct{ method, target, want string }{
		{"GET", "http://DEST", "/"},
		{"GET", "HTTP://DEST/", "/"},
		{"GET", "http://user:password@DEST/x", "/x"},
		{"GET", "http://DEST?", "/?"},
		{"GET", "http://DEST?a/b", "/?a/b"},
		{"GET", "http://DEST//double//slash", "//double//slash"},
		{"GET", "http://DEST/a/../b", "/a/../b"},
		{"GET", "http://DEST/|\"<>[]{}", "/|\"<>[]{}"},
		{"GET", "http://DEST/%41%zz", "400"},
		{"GET", "http://DEST/\xc3\xa4", "/\xc3\xa4"},
		{"GET", "http://DEST/http://b.example/", "/http://b.example/"},
		{"OPTIONS", "http://DEST", "*"},
		{"OPTIONS", "http://DEST/", "/"},
		{"PROPFIND", "http://DEST/dav", "/dav"},
	}
	for _, tt := range tests {
		answer := ask(t, addr, tt.method+" "+strings.ReplaceAll(tt.target, "DEST", dest)+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if tt.want == "400" {
			if got := status(t, answer); got != 400 {
				t.Errorf("%s: %q", tt.target, answer)
			}
			continue
		}
		got, _, _ := strings.Cut(<-requests, "\r\n")
		if want := tt.method + " " + tt.want + " HTTP/1.1"; got != want {
			t.Errorf("%s: %q, want %q", tt.target, got, want)
		}
	}
}

func TestForwardResponse(t *testing.T) {
	dest, _ := rawOrigin(t, strings.Join([]string{
		"HTTP/1.1 299 Odd",
		"Date: Thu, 01 Jan 1970 00:00:00 GMT",
		"X-Hop: 1",
		"Connection: X-Hop",
		"Keep-Alive: timeout=5",
		"Proxy-Authenticate: Basic",
		"Set-Cookie: a=1",
		"Set-Cookie: b=2",
		"Content-Encoding: gzip",
		"Content-Length: 6",
		"", "<html>",
	}, "\r\n"))
	both(t, func() *Server { return &Server{Handler: new(relay)} }, func(t *testing.T, addr string) {
		got := ask(t, addr, "GET http://"+dest+"/ HTTP/1.0\r\n\r\n")
		want := strings.Join([]string{
			"HTTP/1.0 299 status code 299", // net/http writes its own phrases
			"Content-Encoding: gzip",
			"Content-Length: 6",
			"Date: Thu, 01 Jan 1970 00:00:00 GMT",
			"Set-Cookie: a=1",
			"Set-Cookie: b=2",
			"", "<html>",
		}, "\r\n")
		if got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestForwardRejected(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	tests := []struct {
		handler argyle.Handler
		target  string
		want    int
	}{
		{reject(argyle.ErrNotAllowed), "http://a.example/", 403},
		{reject(refused), "http://a.example/", 502},
		{reject(context.DeadlineExceeded), "http://a.example/", 504},
		{reject(errors.ErrUnsupported), "http://a.example/", 405},
		{reject(syscall.EMFILE), "http://a.example/", 503},
		{reject(nil), "http://a.example/", 503},
		{argyle.HandlerFunc(func(context.Context, argyle.Call) {}), "http://a.example/", 503},

		// These reach no handler.
		{nil, "https://a.example/", 501},
		{nil, "ftp://a.example/", 501},
		{nil, "mailto:ann@a.example", 501},
		{nil, "http:///path", 400},
		{nil, "http:a.example", 400},
		{nil, "http://a.example:99999/", 400},
		{nil, "http://127.1/", 502},
		{nil, "http://0.0.0.0/", 403},
		{nil, "http://[::]/", 403},
		{nil, "http://a.example:0/", 403},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %d", tt.target, tt.want), func(t *testing.T) {
			handler := tt.handler
			if handler == nil {
				handler = argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
					t.Errorf("the handler was asked for %v", call.Request().Dest)
				})
			}
			both(t, func() *Server { return &Server{Handler: handler} }, func(t *testing.T, addr string) {
				for _, method := range []string{"GET", "HEAD", "POST"} {
					answer := ask(t, addr, method+" "+tt.target+" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
					if got := status(t, answer); got != tt.want {
						t.Errorf("%s: status %d, want %d", method, got, tt.want)
					}
					if _, body, _ := strings.Cut(answer, "\r\n\r\n"); (body == "") != (method == "HEAD") {
						t.Errorf("%s: body %q", method, body)
					}
				}
			})
		})
	}
}

func TestForwardDestinations(t *testing.T) {
	h := new(recorder)
	addr := start(t, &Server{Handler: h})
	for target, want := range map[string]string{
		"http://a.example/":         "a.example:80",
		"http://a.example:/":        "a.example:80",
		"http://A.example:8080/":    "A.example:8080",
		"http://[2001:db8::1]/":     "[2001:db8::1]:80",
		"http://b\xc3\xbc.example/": "b\xc3\xbc.example:80",
	} {
		if got := status(t, ask(t, addr, "GET "+target+" HTTP/1.0\r\n\r\n")); got != 403 {
			t.Errorf("%s: status %d", target, got)
		}
		if got := h.last().Dest.String(); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

// One connection of a client serves requests for many destinations, each of
// them a call of its own.
func TestForwardKeepAlive(t *testing.T) {
	one := origin(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "one") })
	two := origin(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "two") })
	h := new(relay)
	both(t, func() *Server { return &Server{Handler: h} }, func(t *testing.T, addr string) {
		before := len(h.seen())
		conn := dialTCP(t, addr)
		r := bufio.NewReader(conn)
		for i := range 10 {
			url, want := one.URL, "one"
			if i%2 == 1 {
				url, want = two.URL, "two"
			}
			fmt.Fprintf(conn, "POST %s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", url)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || string(got) != want || resp.Close {
				t.Fatalf("request %d: %q, %v, close %v", i, got, err, resp.Close)
			}
		}
		if n := len(h.seen()) - before; n != 10 {
			t.Errorf("%d calls, want 10", n)
		}
		// A failure does not end it either.
		io.WriteString(conn, "GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 502 || resp.Close {
			t.Errorf("%+v, %v", resp, err)
		}
	})
}

// The body of a request and that of its answer flow at the same time.
func TestForwardStreams(t *testing.T) {
	server := origin(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.Header().Set("Trailer", "X-Count")
		rc.Flush()
		b := make([]byte, 100)
		count := 0
		for {
			n, err := r.Body.Read(b)
			w.Write(bytes.ToUpper(b[:n]))
			rc.Flush()
			count += n
			if err != nil {
				break
			}
		}
		w.Header().Set("X-Count", fmt.Sprint(count, " ", r.Trailer.Get("X-Sum")))
	})
	both(t, func() *Server { return &Server{Handler: new(relay)} }, func(t *testing.T, addr string) {
		conn := dialTCP(t, addr)
		fmt.Fprintf(conn, "POST %s/ HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n", server.URL)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"one", "two", "three"} {
			fmt.Fprintf(conn, "%x\r\n%s\r\n", len(word), word)
			got := make([]byte, len(word))
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != strings.ToUpper(word) {
				t.Fatalf("%q, %v", got, err)
			}
		}
		io.WriteString(conn, "0\r\nX-Sum: 42\r\n\r\n")
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
			t.Errorf("rest %q, %v", rest, err)
		}
		if got := resp.Trailer.Get("X-Count"); got != "11 42" {
			t.Errorf("trailer %q", got)
		}
		if !resp.Close {
			t.Error("an answer that overtook its request keeps the connection")
		}
	})
}

func TestForwardLargeBodies(t *testing.T) {
	server := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chunked" {
			http.NewResponseController(w).Flush()
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Write(body)
	})
	client := proxied(t, start(t, &Server{Handler: new(relay)}))
	body := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	for _, r := range []io.Reader{bytes.NewReader(body), io.MultiReader(bytes.NewReader(body))} {
		resp, err := client.Post(server.URL, "application/octet-stream", r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func TestForwardContinue(t *testing.T) {
	server := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		io.Copy(w, r.Body)
	})
	both(t, func() *Server { return &Server{Handler: new(relay)} }, func(t *testing.T, addr string) {
		request := "POST " + server.URL + "/%s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
		conn := dialTCP(t, addr)
		fmt.Fprintf(conn, request, "yes")
		if got := readHeader(t, conn); !strings.HasPrefix(got, "HTTP/1.1 100 ") {
			t.Fatalf("interim answer %q", got)
		}
		io.WriteString(conn, "hello")
		answer, err := io.ReadAll(conn)
		if err != nil || status(t, string(answer)) != 200 || !strings.HasSuffix(string(answer), "hello") {
			t.Errorf("%q, %v", answer, err)
		}

		conn = dialTCP(t, addr)
		fmt.Fprintf(conn, request, "no")
		if got := readHeader(t, conn); status(t, got) != 403 {
			t.Errorf("got %q, want 403 without 100", got)
		}
	})
}

// Interim answers reach those who know them.
func TestForwardInterimAnswers(t *testing.T) {
	dest, _ := rawOrigin(t, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"+emptyAnswer)
	addr := start(t, &Server{Handler: new(relay)})
	for version, want := range map[string]int{"HTTP/1.1": 2, "HTTP/1.0": 1} {
		answer := ask(t, addr, "GET http://"+dest+"/ "+version+"\r\nHost: x\r\nConnection: close\r\n\r\n")
		if n := strings.Count(answer, "HTTP/1."); n != want || strings.Contains(answer, "Link: </x>") != (want == 2) {
			t.Errorf("%s: %q", version, answer)
		}
	}
}

// A destination may answer and close before it has the whole request: the
// client gets the answer.
func TestForwardEarlyAnswer(t *testing.T) {
	dest := peer(t, func(conn *net.TCPConn) {
		http.ReadRequest(bufio.NewReader(conn))
		io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
		conn.CloseWrite()
		io.CopyN(io.Discard, conn, 1<<20)
	})
	throughBoth(t, func(t *testing.T, addr string) {
		conn := dialTCP(t, addr)
		fmt.Fprintf(conn, "POST http://%s/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", dest, 1<<30)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for b := make([]byte, 64<<10); ; {
				if _, err := conn.Write(b); err != nil {
					return
				}
			}
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || string(got) != "big" || resp.StatusCode != 413 || !resp.Close {
			t.Errorf("%d %q, %v, close %v", resp.StatusCode, got, err, resp.Close)
		}
		conn.Close()
		<-sent
	})
}

// The rest of a request whose answer came early is never the next request.
func TestForwardEarlyAnswerThenSilence(t *testing.T) {
	dest, _ := earlyOrigin(t)
	h := new(relay)
	addr := start(t, &Server{Handler: h})
	conn := dialTCP(t, addr)
	fmt.Fprintf(conn, "POST http://%s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nGET ", dest)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 200 || !resp.Close {
		t.Fatalf("%+v, %v", resp, err)
	}
	fmt.Fprintf(conn, "http://%s/smuggled HTTP/1.1\r\nHost: x\r\n\r\n", dest)
	if rest, err := io.ReadAll(conn); len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	if n := len(h.seen()); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

// earlyOrigin answers when it has a request's header.
func earlyOrigin(t testing.TB) (addr string, headers <-chan string) {
	got := make(chan string, 16)
	addr = peer(t, func(conn *net.TCPConn) {
		got <- readHeader(t, conn)
		io.WriteString(conn, emptyAnswer)
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
	})
	return addr, got
}

func TestForwardUpgrade(t *testing.T) {
	dest := peer(t, func(conn *net.TCPConn) {
		if header := readHeader(t, conn); !strings.Contains(header, "Connection: Upgrade\r\n") || !strings.Contains(header, "Upgrade: echo\r\n") {
			t.Errorf("the origin got %q", header)
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello ")
		echo(conn)
	})
	both(t, func() *Server { return &Server{Handler: new(relay)} }, func(t *testing.T, addr string) {
		conn := dialTCP(t, addr)
		fmt.Fprintf(conn, "GET http://%s/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ", dest)
		if got := readHeader(t, conn); !strings.HasPrefix(got, "HTTP/1.1 101 ") {
			t.Fatalf("answer %q", got)
		}
		greeting := make([]byte, len("hello early "))
		if _, err := io.ReadFull(conn, greeting); err != nil || string(greeting) != "hello early " {
			t.Fatalf("%q, %v", greeting, err)
		}
		// The end of one direction leaves the other open.
		io.WriteString(conn, "late")
		conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "late" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// What breaks off at the destination is not made into an answer in order.
func TestForwardReset(t *testing.T) {
	dest := peer(t, func(conn *net.TCPConn) {
		readHeader(t, conn)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nhalf")
		io.ReadFull(conn, make([]byte, 1))
		conn.SetLinger(0)
	})
	throughBoth(t, func(t *testing.T, addr string) {
		conn := dialTCP(t, addr)
		fmt.Fprintf(conn, "POST http://%s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", dest)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, len("half"))); err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "1\r\nx\r\n") // the origin has been waiting for it
		if rest, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("got an end in order after %q", rest)
		}
	})
}

// To an HTTP/1.0 client, only a reset says that an answer is not complete.
func TestForwardResetHTTP10(t *testing.T) {
	begun := make(chan struct{}, 1)
	dest := peer(t, func(conn *net.TCPConn) {
		readHeader(t, conn)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nhalf")
		<-begun
		conn.SetLinger(0)
	})
	throughBoth(t, func(t *testing.T, addr string) {
		conn := dialTCP(t, addr)
		fmt.Fprintf(conn, "GET http://%s/ HTTP/1.0\r\n\r\n", dest)
		readHeader(t, conn)
		if _, err := io.ReadFull(conn, make([]byte, len("half"))); err != nil {
			t.Fatal(err)
		}
		begun <- struct{}{}
		if rest, err := io.ReadAll(conn); !isReset(err) {
			t.Errorf("%q, %v, want a reset", rest, err)
		}
	})
}

func TestForwardInvalidAnswer(t *testing.T) {
	for _, answer := range []string{
		"",
		"garbage\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 300) + "\r\n",
	} {
		dest, _ := rawOrigin(t, answer)
		addr := start(t, &Server{Handler: new(relay)})
		got := ask(t, addr, "GET http://"+dest+"/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if status(t, got) != 502 {
			t.Errorf("answer %.20q: %q", answer, got)
		}
	}
}

func TestForwardBrokenBody(t *testing.T) {
	dest := peer(t, func(conn *net.TCPConn) { io.Copy(io.Discard, conn) })
	addr := start(t, &Server{Handler: new(relay)})
	answer := ask(t, addr, "POST http://"+dest+"/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n")
	if got := status(t, answer); got != 400 {
		t.Errorf("status %d", got)
	}
}

// A client that goes away while the call waits for its answer ends the call.
func TestForwardClientGone(t *testing.T) {
	asked, accepted := make(chan struct{}), make(chan error)
	h := argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
		close(asked)
		<-ctx.Done()
		_, err := call.Accept(nil)
		accepted <- err
	})
	addr := start(t, &Server{Handler: h})
	conn := dialTCP(t, addr)
	io.WriteString(conn, "GET http://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n")
	<-asked
	conn.Close()
	if err := <-accepted; !errors.Is(err, errClientGone) {
		t.Errorf("Accept: %v", err)
	}
}

// A client that goes away during the answer ends the session.
func TestForwardClientGoneLater(t *testing.T) {
	ended := make(chan error, 1)
	dest := peer(t, func(conn *net.TCPConn) {
		readHeader(t, conn)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
		_, err := io.Copy(conn, zeros{})
		ended <- err
	})
	addr := start(t, &Server{Handler: new(relay)})
	conn := dialTCP(t, addr)
	fmt.Fprintf(conn, "GET http://%s/ HTTP/1.1\r\nHost: x\r\n\r\n", dest)
	readHeader(t, conn)
	io.ReadFull(conn, make([]byte, 1<<20))
	conn.SetLinger(0)
	conn.Close()
	if err := <-ended; !isReset(err) {
		t.Errorf("the origin's write ended with %v", err)
	}
}

// A client that goes while the destination is silent ends the session too, as
// a reset, whatever part of the request has gone.
func TestForwardClientGoneBefore(t *testing.T) {
	for _, request := range []string{
		"GET http://%s/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST http://%s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc",
	} {
		got, ended := make(chan struct{}), make(chan error, 1)
		dest := peer(t, func(conn *net.TCPConn) {
			readHeader(t, conn)
			close(got)
			_, err := io.Copy(io.Discard, conn)
			ended <- err
		})
		conn := dialTCP(t, start(t, &Server{Handler: new(relay)}))
		fmt.Fprintf(conn, request, dest)
		<-got
		conn.Close()
		if err := <-ended; !isReset(err) {
			t.Errorf("%.4s: the origin's read ended with %v", request, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// throughBoth runs a test with the relay of the tests and with that of the program.
func throughBoth(t *testing.T, test func(t *testing.T, addr string)) {
	p := new(proxy.Proxy)
	t.Cleanup(func() { p.Close() })
	t.Run("relay", func(t *testing.T) { test(t, start(t, &Server{Handler: new(relay)})) })
	t.Run("proxy", func(t *testing.T) { test(t, startFed(t, &Server{Handler: p})) })
}

// The real path: the proxy's relay, its account and its end.
func TestForwardThroughProxy(t *testing.T) {
	server := origin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := httputil.DumpRequest(r, true)
		w.Write(b)
	})
	ended := make(chan *proxy.Session, 1)
	p := &proxy.Proxy{OnSession: func(s *proxy.Session) {
		if over, _ := s.Ended(); over {
			ended <- s
		}
	}}
	defer p.Close()
	client := proxied(t, startFed(t, &Server{Handler: p}))
	for range 3 {
		resp, err := client.Post(server.URL+"/path", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.HasPrefix(string(got), "POST /path HTTP/1.1\r\n") || !strings.HasSuffix(string(got), "hello") {
			t.Errorf("%q, %v", got, err)
		}
		s := <-ended
		if up, down := s.Bytes(); up < 50 || down < 50 {
			t.Errorf("%d bytes up, %d down", up, down)
		}
		if _, err := s.Ended(); err != nil {
			t.Errorf("session ended with %v", err)
		}
	}
}
