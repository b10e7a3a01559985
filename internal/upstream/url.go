package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/socks"
)

// Redact returns a proxy URL with its password left out. It would rather hide
// too much: what stands before the last @ may belong to the password, even where
// the URL is wrong.
func Redact(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s
	}
	rest := s[:at]
	if scheme, after := cutScheme(s); knows(scheme) {
		rest = rest[len(s)-len(after):]
	}
	user, _, found := strings.Cut(rest, ":")
	if !found {
		return s
	}
	return s[:at-len(rest)] + user + ":…" + s[at:]
}

// proxyURL is a proxy URL in its parts.
type proxyURL struct {
	scheme         string
	user, password string
	addr           string // host:port or unix:/path
	options        url.Values
}

// schemes are the known ones with their ports.
var schemes = map[string]string{
	"socks4": "1080", "socks4a": "1080", "socks5": "1080", "socks5h": "1080",
	"socks5+tls": "1080", "socks5h+tls": "1080",
	"http": "8080", "https": "443",
	"ssh":    "22",
	"direct": "",
}

func knows(scheme string) bool {
	_, known := schemes[scheme]
	return known
}

// cutScheme takes the scheme off a proxy URL. Without one, which must not be
// looked for in a password, it is socks5h.
func cutScheme(s string) (scheme, rest string) {
	scheme, rest, found := strings.Cut(s, "://")
	if !found || strings.ContainsFunc(scheme, notInScheme) {
		return "socks5h", s
	}
	return strings.ToLower(scheme), rest
}

// notInScheme is for RFC 3986, section 3.1.
func notInScheme(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '+' && r != '-' && r != '.'
}

// split takes a proxy URL apart, as curl reads it.
func split(s string) (u proxyURL, err error) {
	scheme, rest := cutScheme(s)
	u.scheme = scheme
	if !knows(scheme) {
		return u, fmt.Errorf("unknown scheme %q, want one of socks5h, socks5, socks4a, socks4, socks5h+tls, socks5+tls, http, https, ssh, direct", scheme)
	}
	rest, query, _ := strings.Cut(rest, "?")
	if strings.Contains(query, "@") { // whose is it? The options' errors show what they are about
		return u, errors.New("write ? in a password as %3F and @ in an option as %40")
	}
	if u.options, err = url.ParseQuery(query); err != nil {
		return u, fmt.Errorf("options: %w", err)
	}
	if scheme == "direct" {
		if strings.Trim(rest, "/") != "" {
			return u, errors.New("direct takes no host")
		}
		return u, nil
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		if strings.HasPrefix(rest, "unix:/") {
			return u, errors.New("write @ in a path as %40")
		}
		if u.user, u.password, err = userinfo(rest[:at]); err != nil {
			return u, err
		}
		rest = rest[at+1:]
	}
	if strings.HasPrefix(scheme, "http") && strings.Contains(u.user, ":") {
		return u, errors.New("a user name for HTTP has no colon") // RFC 7617, section 2
	}
	u.addr, err = hostPort(rest, schemes[scheme])
	return u, err
}

// userinfo takes user and password apart. An error must not show them.
func userinfo(s string) (user, password string, err error) {
	user, password, _ = strings.Cut(s, ":")
	if user, err = url.PathUnescape(user); err == nil {
		password, err = url.PathUnescape(password)
	}
	if err != nil {
		return "", "", errors.New("a % in user name or password must be written as %25")
	}
	if len(user) > 255 || len(password) > 255 {
		return "", "", errors.New("user name and password have at most 255 bytes each")
	}
	return user, password, nil
}

// hostPort completes host with the port of the scheme.
func hostPort(host, port string) (string, error) {
	if path, ok := strings.CutPrefix(host, "unix:"); ok {
		return unixPath(path)
	}
	host = strings.TrimSuffix(host, "/")
	if strings.HasPrefix(host, "[") {
		host = strings.Replace(host, "%25", "%", 1) // RFC 6874: before a zone
	}
	if strings.HasSuffix(host, "]") || !strings.Contains(host, ":") {
		host += ":" + port
	}
	name, number, err := net.SplitHostPort(host)
	if err != nil {
		return "", fmt.Errorf("want host or host:port, IPv6 in brackets: %w", err)
	}
	if n, err := strconv.ParseUint(number, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("port %q is not a number from 1 to 65535", number)
	}
	if _, err := argyle.ParseHost(name, 0); err != nil {
		return "", fmt.Errorf("host %q is neither a name nor an address", name)
	}
	return host, nil
}

func unixPath(escaped string) (string, error) {
	path, err := url.PathUnescape(escaped)
	switch {
	case err != nil:
		return "", errors.New("a % in a path must be written as %25")
	case path == "":
		return "", errors.New("unix: without a path")
	}
	return "unix:" + path, nil
}

// dialer makes the way out.
func (u *proxyURL) dialer(forward argyle.Dialer) (argyle.Dialer, error) {
	if err := u.checkOptions(); err != nil {
		return nil, err
	}
	unix := strings.HasPrefix(u.addr, "unix:")
	if direct, ok := forward.(*argyle.Direct); ok && (unix || isPlain(direct)) {
		forward = nil // what it would do anyway
	}
	if forward != nil && unix {
		return nil, errors.New("a unix socket cannot be reached through another proxy")
	}
	switch u.scheme {
	case "direct":
		if forward == nil {
			return &argyle.Direct{}, nil
		}
		return forward, nil
	case "ssh":
		return u.ssh(forward)
	}
	config, err := u.tls()
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(u.scheme, "http") {
		return &httpconnect.Dialer{Addr: u.addr, Forward: forward, User: u.user, Password: u.password, TLS: config}, nil
	}
	d := &socks.Dialer{Addr: u.addr, Forward: forward, User: u.user, Password: u.password, TLS: config}
	if d.GSSAPI, err = u.gssapi(forward); err != nil {
		return nil, err
	}
	switch strings.TrimSuffix(u.scheme, "+tls") {
	case "socks4":
		d.Version, d.ResolveNames = 4, true
	case "socks4a":
		d.Version = 4
	case "socks5":
		d.ResolveNames = true
	}
	return d, nil
}

// isPlain reports whether d does no more than the zero Direct.
func isPlain(d *argyle.Direct) bool {
	return d.Check == nil && d.Resolver == nil && d.Local == nil && d.Control == nil
}

// hasTLS reports whether the scheme stands for a proxy inside TLS.
func (u *proxyURL) hasTLS() bool { return strings.HasSuffix(u.scheme, "+tls") || u.scheme == "https" }

// checkOptions refuses options that the scheme does not have. Those of ssh may
// have several values.
func (u *proxyURL) checkOptions() error {
	var allowed []string
	if u.hasTLS() {
		allowed = []string{"ca", "cert", "key", "sni"}
	}
	if strings.HasPrefix(u.scheme, "socks5") {
		allowed = append(allowed, gssapiOptions...)
	}
	if u.scheme == "ssh" {
		allowed = []string{"identity", "known_hosts"}
	}
	for option, values := range u.options {
		if !slices.Contains(allowed, option) {
			return fmt.Errorf("unknown option %q for %s", option, u.scheme)
		}
		// An empty ca would mean the system's.
		if len(values) != 1 && u.scheme != "ssh" || slices.Contains(values, "") {
			return fmt.Errorf("option %s must have one value", option)
		}
	}
	return nil
}

// tls makes a TLS configuration of the options; nil if TLS is not wanted.
func (u *proxyURL) tls() (*tls.Config, error) {
	if !u.hasTLS() {
		return nil, nil
	}
	config := &tls.Config{ServerName: u.options.Get("sni"), MinVersion: tls.VersionTLS12}
	if file := u.options.Get("ca"); file != "" {
		pem, err := readFile(file)
		if err != nil {
			return nil, fmt.Errorf("option ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("option ca: no certificate in %s", file)
		}
	}
	if cert, key := u.options.Get("cert"), u.options.Get("key"); cert != "" || key != "" {
		if cert == "" || key == "" {
			return nil, errors.New("options cert and key belong together")
		}
		pair, err := keyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("options cert and key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// keyPair reads a certificate and its key.
func keyPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := readFile(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readFile(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// maxFile bounds files that are read whole: /dev/zero has no end.
const maxFile = 16 << 20

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: longer than %d MiB", path, maxFile>>20)
	}
	return b, err
}

// ssh makes the way out of an ssh URL, whose files must be readable now: later
// they are read for every connection.
func (u *proxyURL) ssh(forward argyle.Dialer) (argyle.Dialer, error) {
	if strings.HasPrefix(u.addr, "unix:") {
		return nil, errors.New("ssh wants a host, whose key it knows, and no unix socket")
	}
	s := &SSH{
		Addr: u.addr, User: u.user, Password: u.password, Forward: forward,
		Identity: u.options["identity"], KnownHosts: u.options["known_hosts"],
	}
	for _, file := range s.Identity {
		if _, err := loadKey(file); err != nil && !isEncrypted(err) { // then an agent may have it
			return nil, fmt.Errorf("option identity: %w", err)
		}
	}
	if len(s.KnownHosts) > 0 {
		if _, err := readKnownHosts(s.Addr, s.KnownHosts); err != nil {
			return nil, fmt.Errorf("option known_hosts: %w", err)
		}
	}
	return s, nil
}
