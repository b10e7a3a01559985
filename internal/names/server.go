package names

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"strings"
)

const (
	networkUDP   = "udp"
	networkTCP   = "tcp"
	networkTLS   = "tls"
	networkHTTPS = "https"

	defaultPath = "/dns-query" // customary since the examples of RFC 8484
)

var defaultPorts = map[string]string{networkUDP: "53", networkTCP: "53", networkTLS: "853", networkHTTPS: "443"}

// A Server is a name server, and how it is reached. The zero Server is the
// system's resolver. [ParseServer] reads one from text.
type Server struct {
	// Network is "udp" (what does not fit comes over TCP), "tcp", "tls"
	// (RFC 7858) or "https" (RFC 8484); empty is the system's resolver.
	Network string

	// Address is where to connect, "host:port". The host is an IP address;
	// for TLS and HTTPS it may be a name, which the system looks up.
	Address string

	// Name is what the certificate is for, and the host in the URL of
	// HTTPS; empty stands for the host in Address.
	Name string

	// Path is that of the URL for HTTPS; empty stands for "/dns-query".
	Path string

	// CA is the file that Roots came from. It is for String alone.
	CA string

	// Roots are the authorities that may sign the certificate; nil stands
	// for those of the system.
	Roots *x509.CertPool
}

// String returns what [ParseServer] reads.
func (s Server) String() string {
	if s.Network == "" {
		return "system"
	}
	u := url.URL{Scheme: s.Network, Host: s.Address}
	options := url.Values{}
	if s.CA != "" {
		options.Set("ca", s.CA)
	}
	if s.Network == networkTLS && s.Name != "" {
		options.Set("name", s.Name)
	}
	u.RawQuery = options.Encode()
	if s.Network != networkHTTPS {
		return u.String()
	}
	if s.Name != "" {
		host, _, _ := net.SplitHostPort(s.Address)
		options.Set("address", host)
	}
	return s.url() + encoded(options)
}

func encoded(options url.Values) string {
	if len(options) == 0 {
		return ""
	}
	return "?" + options.Encode()
}

// url returns where questions over HTTPS are posted.
func (s Server) url() string {
	return "https://" + s.urlHost() + cmp.Or(s.Path, defaultPath)
}

// urlHost returns Name with the port, as it is in a URL.
func (s Server) urlHost() string {
	host, port, _ := net.SplitHostPort(s.Address)
	hostport := net.JoinHostPort(cmp.Or(s.Name, host), port)
	if port == defaultPorts[networkHTTPS] {
		hostport = strings.TrimSuffix(hostport, ":"+port)
	}
	u := url.URL{Host: hostport} // escapes the zone of an IPv6 address
	return strings.TrimPrefix(u.String(), "//")
}

// label is for error messages: a path may be a customer's secret.
func (s Server) label() string {
	switch s.Network {
	case "", networkUDP, networkTCP:
		return s.Address
	case networkHTTPS:
		return "https://" + s.urlHost()
	}
	return s.Network + "://" + s.Address
}

// certificate returns how the server's certificate is verified.
func (s Server) certificate() *tls.Config {
	host, _, _ := net.SplitHostPort(s.Address)
	host, _, _ = strings.Cut(host, "%")
	return &tls.Config{
		ServerName:         cmp.Or(s.Name, host),
		RootCAs:            s.Roots,
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(4),
	}
}
