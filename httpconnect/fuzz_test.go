package httpconnect

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle"
)

// FuzzAnswer reads answers of proxies: no panic, an end, and nothing of the
// tunnel lost.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		established + "tunnel",
		"HTTP/1.1 100 Continue\r\n\r\n" + established,
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
		"HTTP/1.1 200 OK\n folded: x\n\n",
		"SSH-2.0-x\r\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		r := bufio.NewReader(strings.NewReader(answer))
		err := readAnswer(r)
		var status StatusError
		if errors.As(err, &status) && status/100 == 2 {
			t.Errorf("refused with %v", status)
		}
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(r)
		if !strings.HasSuffix(answer, string(rest)) || len(rest) == len(answer) {
			t.Errorf("%q left of %q", rest, answer)
		}
	})
}

// FuzzRewrite looks at the requests that go on to a destination: the path is
// the client's, and the request goes where the policy has said.
func FuzzRewrite(f *testing.F) {
	for _, seed := range []string{
		"http://a.example", "http://a.example?", "http://a.example?a/b", "http://a.example//b", "http://a.example/%2f^",
		"http://u:p@a.example:8080/x", "http://[::1]/", "http://a.example/http://b.example/", "http:///x", "http:x",
	} {
		f.Add("GET", seed)
	}
	f.Add("OPTIONS", "http://a.example")
	f.Fuzz(func(t *testing.T, method, target string) {
		raw := method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n"
		in, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil || in.Method == http.MethodConnect || in.URL.Scheme != "http" || in.RequestURI != target {
			return
		}
		dest, err := urlDest(in.URL)
		if err != nil {
			return
		}
		var out strings.Builder
		p := &httputil.ProxyRequest{In: in, Out: in.Clone(t.Context())}
		rewrite(p)
		if p.Out.Write(&out) != nil {
			return
		}
		line, _, _ := strings.Cut(out.String(), "\r\n")
		got := strings.TrimSuffix(strings.TrimPrefix(line, in.Method+" "), " HTTP/1.1")
		want := rawPath(target)
		if want == "" {
			want = "/"
			if in.Method == http.MethodOptions && in.URL.RawQuery == "" {
				want = "*"
			}
		}
		gotPath, _, _ := strings.Cut(got, "?")
		if gotPath != want && !strings.HasPrefix(want, "//") {
			t.Errorf("%q became %q, want path %q", target, line, want)
		}
		// Whoever reads the URL sees the same host as the policy.
		if u, err := url.Parse("http://" + in.URL.Host); err == nil {
			if again, err := argyle.ParseHost(u.Hostname(), dest.Port); err != nil || again != dest {
				t.Errorf("%q goes to %v or to %v", target, dest, again)
			}
		}
	})
}

// FuzzServer sends bytes to a server whose handler refuses everything: it
// answers in HTTP or hangs up, and never takes a client further.
func FuzzServer(f *testing.F) {
	for _, seed := range []string{
		"CONNECT a.example:443 HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET http://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST http://a.example/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "\x16\x03\x01",
	} {
		f.Add([]byte(seed))
	}
	addr := start(f, &Server{Handler: reject(argyle.ErrNotAllowed)})
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := dialTCP(t, addr)
		defer conn.Close()
		conn.Write(b)
		conn.CloseWrite()
		answer, err := io.ReadAll(conn)
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			t.Errorf("no end after %q", answer)
		}
		if len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.") {
			t.Errorf("answer %q", answer)
		}
	})
}
