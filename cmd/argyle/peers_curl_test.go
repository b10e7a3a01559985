//go:build linux

package main

import (
	"strings"
	"testing"
)

// curl's exit statuses.
const (
	curlHTTPError = 22 // because of --fail
	curlProxy     = 97
)

// failure is what curl has to end with: an exit status and a part of its message.
type failure struct {
	code int
	says string
}

func TestCurl(t *testing.T) {
	t.Parallel()
	curl := peer(t, "curl")
	certFile, keyFile := certificate(t)
	tls := []string{"--tls-cert", certFile, "--tls-key", keyFile}
	open := startServer(t, tls...)
	closed := startServer(t, append(tls, "--users", usersFile(t))...)
	const v4, v6, name = "127.0.0.1", "::1", "localhost"

	for _, test := range []struct {
		name    string
		server  *server
		options string // PROXY, CA and USER stand for what they say
		host    string // of the website, "" for a port where nobody listens
		fails   failure
	}{
		{"socks4", open, "--socks4 PROXY", v4, failure{}},
		{"socks4a", open, "--socks4a PROXY", name, failure{}},
		{"socks4a address", open, "--socks4a PROXY", v4, failure{}},
		{"socks5", open, "--socks5 PROXY", v4, failure{}},
		{"socks5 IPv6", open, "--socks5 PROXY", v6, failure{}},
		{"socks5-hostname", open, "--socks5-hostname PROXY", name, failure{}},
		{"socks5-hostname IPv6", open, "--socks5-hostname PROXY", v6, failure{}},
		{"http", open, "--proxy http://PROXY", name, failure{}},
		{"http IPv6", open, "--proxy http://PROXY", v6, failure{}},
		{"CONNECT", open, "--proxytunnel --proxy http://PROXY", name, failure{}},
		{"CONNECT IPv6", open, "--proxytunnel --proxy http://PROXY", v6, failure{}},
		{"https", open, "--proxy-cacert CA --proxy https://PROXY", name, failure{}},
		{"https CONNECT", open, "--proxy-cacert CA --proxytunnel --proxy https://PROXY", name, failure{}},

		// What nobody listens on is refused, in each protocol's own words.
		{"socks4 refused", open, "--socks4 PROXY", "", failure{curlProxy, "(91)"}},
		{"socks5 refused", open, "--socks5 PROXY", "", failure{curlProxy, "(5)"}},
		{"http refused", open, "--proxy http://PROXY", "", failure{curlHTTPError, "502"}},
		{"CONNECT refused", open, "--proxytunnel --proxy http://PROXY", "", failure{curlHTTPError, "502"}},

		{"user socks5", closed, "--proxy-user USER --proxy socks5://PROXY", v4, failure{}},
		{"user socks5h", closed, "--proxy-user USER --proxy socks5h://PROXY", name, failure{}},
		{"user http", closed, "--proxy-user USER --proxy http://PROXY", v4, failure{}},
		{"user http asked first", closed, "--proxy-anyauth --proxy-user USER --proxy http://PROXY", v4, failure{}},
		{"user CONNECT", closed, "--proxytunnel --proxy-user USER --proxy http://PROXY", v4, failure{}},
		{"user CONNECT asked first", closed, "--proxy-anyauth --proxytunnel --proxy-user USER --proxy http://PROXY", v4, failure{}},
		{"user https CONNECT", closed, "--proxy-cacert CA --proxytunnel --proxy-user USER --proxy https://PROXY", v4, failure{}},

		{"wrong socks5", closed, "--proxy-user ann:wrong --proxy socks5h://PROXY", v4, failure{curlProxy, "User was rejected"}},
		{"empty socks5", closed, "--proxy-user ann: --proxy socks5h://PROXY", v4, failure{curlProxy, "User was rejected"}},
		{"wrong http", closed, "--proxy-user ann:wrong --proxy http://PROXY", v4, failure{curlHTTPError, "407"}},
		{"wrong CONNECT", closed, "--proxytunnel --proxy-user ann:wrong --proxy http://PROXY", v4, failure{curlHTTPError, ""}},

		{"nobody socks5", closed, "--proxy socks5h://PROXY", v4, failure{curlProxy, "No authentication method was acceptable"}},
		{"nobody socks4", closed, "--proxy socks4://PROXY", v4, failure{curlProxy, "(91)"}},
		{"name only socks4", closed, "--proxy-user USER --proxy socks4://PROXY", v4, failure{curlProxy, "(91)"}},
		{"nobody http", closed, "--proxy http://PROXY", v4, failure{curlHTTPError, "407"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			values := strings.NewReplacer("PROXY", test.server.addr, "CA", certFile, "USER", user+":"+password)
			args := []string{"--fail", "--silent", "--show-error"}
			for _, option := range strings.Fields(test.options) {
				args = append(args, values.Replace(option))
			}
			dest := closedPort(t)
			if test.host != "" {
				dest = websiteAs(t, test.host)
			}
			c := start(t, command(t, curl, append(args, "http://"+dest+"/")...))
			if code := c.wait(t); code != test.fails.code || !strings.Contains(c.stderr.String(), test.fails.says) {
				t.Fatalf("curl ends with %d %q, not %d and %q", code, c.stderr.String(), test.fails.code, test.fails.says)
			}
			if test.fails.code != 0 {
				return
			}
			if got := c.stdout.String(); got != page {
				t.Errorf("curl got %q", got)
			}
			wantUser := ""
			if test.server == closed {
				wantUser = user
			}
			if line := test.server.sessionTo(t, dest); line.User != wantUser {
				t.Errorf("the session's user is %q, not %q", line.User, wantUser)
			}
		})
	}
}
