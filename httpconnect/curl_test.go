package httpconnect

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// curl runs curl, which must be there if ARGYLE_PEERS says so.
func curl(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		if os.Getenv("ARGYLE_PEERS") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"--disable", "--silent", "--show-error", "--noproxy", ""}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if stderr.Len() > 0 {
		t.Log(strings.TrimSpace(stderr.String()))
	}
	return string(out), err
}

func TestCurl(t *testing.T) {
	server := origin(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		io.WriteString(w, r.Method+" "+r.Header.Get("Proxy-Authorization")+r.Header.Get("X-Forwarded-For"))
		w.Write(body)
	})
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	defer secure.Close()
	big := strings.Repeat("0123456789abcdef", 4<<20/16)
	file := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(file, []byte(big), 0o600); err != nil {
		t.Fatal(err)
	}
	both(t, func() *Server { return &Server{Handler: new(relay), Login: ann} }, func(t *testing.T, addr string) {
		proxy := []string{"--proxy", "http://" + addr, "--proxy-user", "ann:pass:w\u00f6rd"}
		tests := []struct {
			name string
			args []string
			want string
		}{
			{"absolute URL", []string{server.URL}, "GET "},
			{"tunnel", []string{"--proxytunnel", server.URL}, "GET "},
			{"https", []string{"--insecure", secure.URL}, "hello"},
			{"anyauth", []string{"--proxy-anyauth", server.URL}, "GET "},
			{"anyauth, tunnel", []string{"--proxy-anyauth", "--proxytunnel", server.URL}, "GET "},
			{"upload", []string{"--data-binary", "@" + file, server.URL}, "POST " + big},
			{"chunked upload", []string{"--header", "Transfer-Encoding: chunked", "--data-binary", "@" + file, server.URL}, "POST " + big},
			{"1.0", []string{"--http1.0", server.URL}, "GET "},
			{"two on one connection", []string{server.URL, server.URL}, "GET GET "},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				args := append(append([]string(nil), proxy...), tt.args...)
				if got, err := curl(t, args...); err != nil || got != tt.want {
					t.Errorf("got %d bytes %.40q, %v", len(got), got, err)
				}
			})
		}
		t.Run("wrong password", func(t *testing.T) {
			for _, mode := range []string{"--no-proxytunnel", "--proxytunnel"} {
				got, _ := curl(t, "--proxy", addr, "--proxy-user", "ann:wrong", mode, "--output", os.DevNull, "--write-out", "%{http_code} %{http_connect}", server.URL)
				if !strings.Contains(got, "407") {
					t.Errorf("%s: %q", mode, got)
				}
			}
		})
	})
}
