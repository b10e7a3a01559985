//go:build linux

package main

import (
	"io"
	"net/http"
	"net/url"
	"testing"

	"golang.org/x/net/proxy"
)

// What Go programs use: golang.org/x/net/proxy, and the proxy field of net/http.
func TestGo(t *testing.T) {
	t.Parallel()
	open := startServer(t)
	closed := startServer(t, "--users", usersFile(t))
	account := url.UserPassword(user, password)

	for _, test := range []struct {
		name   string
		server *server
		proxy  url.URL
	}{
		{"socks5", open, url.URL{Scheme: "socks5"}},
		{"socks5 user", closed, url.URL{Scheme: "socks5", User: account}},
		{"http", open, url.URL{Scheme: "http"}},
		{"http user", closed, url.URL{Scheme: "http", User: account}},
	} {
		test.proxy.Host = test.server.addr
		t.Run("net/http "+test.name, func(t *testing.T) {
			t.Parallel()
			dest := websiteAs(t, "localhost")
			fetch(t, &http.Transport{Proxy: http.ProxyURL(&test.proxy)}, dest)
			if line := test.server.sessionTo(t, dest); line.User != test.proxy.User.Username() {
				t.Errorf("the session's user is %q", line.User)
			}
		})
		if test.proxy.Scheme == "http" {
			continue
		}
		t.Run("x/net/proxy "+test.name, func(t *testing.T) {
			t.Parallel()
			dialer, err := proxy.FromURL(&test.proxy, proxy.Direct)
			if err != nil {
				t.Fatal(err)
			}
			dest := websiteAs(t, "localhost")
			fetch(t, &http.Transport{DialContext: dialer.(proxy.ContextDialer).DialContext}, dest)
			test.server.sessionTo(t, dest)
		})
	}

	t.Run("x/net/proxy wrong password", func(t *testing.T) {
		t.Parallel()
		dialer, err := proxy.SOCKS5("tcp", closed.addr, &proxy.Auth{User: user, Password: "wrong"}, proxy.Direct)
		if err != nil {
			t.Fatal(err)
		}
		if conn, err := dialer.Dial("tcp", website(t, "127.0.0.1:0")); err == nil {
			conn.Close()
			t.Error("the server let it pass")
		}
	})
}

func fetch(t *testing.T, transport *http.Transport, dest string) {
	t.Helper()
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+dest+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got, err := io.ReadAll(response.Body); err != nil || string(got) != page {
		t.Errorf("got %q, %v", got, err)
	}
}
