package httpconnect

import (
	"fmt"
	"net"
	"net/http"
	"strings"
)

// servePage answers what is no request to a proxy: somebody has opened the port
// in a browser, or a program takes it for a web server.
func servePage(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		refuse(w, r, http.StatusMethodNotAllowed, "this is a proxy, not a web server")
	case !strings.HasPrefix(r.URL.Path, "/"):
		refuse(w, r, http.StatusBadRequest, "this is a proxy: CONNECT host:port, or a whole URL")
	default:
		lastAnswer(w, r, http.StatusOK, http.Header{
			"Content-Type":            {"text/html; charset=utf-8"},
			"Content-Security-Policy": {"default-src 'none'; style-src 'unsafe-inline'"},
			"X-Content-Type-Options":  {"nosniff"},
			"Cache-Control":           {"no-store"},
		}, page(r))
	}
}

// page says what this port is, without a word that would help an attacker.
func page(r *http.Request) string {
	lines := "curl -x socks5h://%[1]s https://example.com/\ncurl -x http://%[1]s https://example.com/"
	if isTLS(r) {
		lines = "curl -x https://%[1]s https://example.com/"
	}
	return fmt.Sprintf(pageText, fmt.Sprintf(lines, ownName(r)))
}

const pageText = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>argyle</title>
<style>body { font: 1rem/1.5 sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem } pre { overflow: auto }</style>
</head>
<body>
<h1>argyle</h1>
<p>This is a proxy, not a web site. The port speaks SOCKS 4, 4a, 5 and HTTP; a program uses it like this:</p>
<pre>%s</pre>
<p>In a browser, enter the host and port as SOCKS 5 or HTTP proxy in the network settings.</p>
</body>
</html>
`

// ownName returns the "host:port" by which the client called us. It stands in
// a command that people copy, so that anything but an ordinary name or address
// is left out.
func ownName(r *http.Request) string {
	if isPlainHost(r.Host) {
		return r.Host
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && isPlainHost(local.String()) {
		return local.String()
	}
	return "HOST:PORT"
}

func isPlainHost(host string) bool {
	return host != "" && strings.IndexFunc(host, func(c rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]", c)
	}) < 0
}

func isTLS(r *http.Request) bool {
	_, ok := connOf(r).(interface{ NetConn() net.Conn }) // as *tls.Conn has
	return ok || r.TLS != nil
}
