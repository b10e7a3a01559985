package names

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

const expected = "expected an IP address such as 192.0.2.53 or [2001:db8::53]:53, a URL that begins with " +
	"udp://, tcp://, tls:// or https://, or system"

// ParseServer reads a server from text, which is one of
//
//	system
//	192.0.2.53    192.0.2.53:5353    2001:db8::53    [2001:db8::53]:53
//	udp://192.0.2.53:53
//	tcp://192.0.2.53:53
//	tls://HOST:853?OPTIONS
//	https://HOST:443/dns-query?OPTIONS
//
// Ports may be left out. HOST is an IP address or a name; the options are
//
//	address=IP   where to connect; without it the system looks up the name
//	name=NAME    tls: what the certificate is for, if not HOST
//	ca=FILE      authorities for the certificate, in PEM form
func ParseServer(text string) (Server, error) {
	s, err := parseServer(text)
	if err == nil && s.CA != "" {
		s.Roots, err = readRoots(s.CA)
	}
	if err != nil {
		return Server{}, fmt.Errorf("name server %q: %w", text, err)
	}
	return s, nil
}

func readRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in PEM form", file)
	}
	return roots, nil
}

// parseServer is ParseServer without the files.
func parseServer(text string) (Server, error) {
	if text == "system" {
		return Server{}, nil
	}
	if !strings.Contains(text, "://") {
		return parsePlain(text)
	}
	u, err := url.Parse(text)
	if err != nil {
		return Server{}, errors.Unwrap(err) // without the URL, which our error has
	}
	if u.User != nil || u.Fragment != "" || u.Hostname() == "" {
		return Server{}, errors.New("expected nothing but scheme://host:port/path?options")
	}
	options, err := parseOptions(u)
	if err != nil {
		return Server{}, err
	}
	switch u.Scheme {
	case networkUDP, networkTCP:
		return parseBare(u)
	case networkTLS:
		return parseTLS(u, options)
	case networkHTTPS:
		return parseHTTPS(u, options)
	}
	return Server{}, errors.New(expected)
}

// parsePlain reads an address without a scheme.
func parsePlain(text string) (Server, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = text, defaultPorts[networkUDP]
		if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
			host = text[1 : len(text)-1]
		}
	}
	ip, err := parseIP(host)
	if err != nil {
		return Server{}, errors.New(expected)
	}
	if port, err = parsePort(port); err != nil {
		return Server{}, err
	}
	return Server{Network: networkUDP, Address: net.JoinHostPort(ip, port)}, nil
}

// parseBare reads what has no certificate, and so no use for a name.
func parseBare(u *url.URL) (Server, error) {
	ip, err := parseIP(u.Hostname())
	if err != nil {
		return Server{}, err
	}
	if u.Path != "" {
		return Server{}, fmt.Errorf("expected no path after %s", u.Host)
	}
	port, err := parsePort(cmp.Or(u.Port(), defaultPorts[u.Scheme]))
	return Server{Network: u.Scheme, Address: net.JoinHostPort(ip, port)}, err
}

func parseTLS(u *url.URL, options map[string]string) (Server, error) {
	if u.Path != "" {
		return Server{}, fmt.Errorf("expected no path after %s", u.Host)
	}
	if options["name"] != "" && options["address"] != "" {
		return Server{}, errors.New("expected one of the options name and address, the host being the other")
	}
	return parseVerified(u, options)
}

func parseHTTPS(u *url.URL, options map[string]string) (Server, error) {
	s, err := parseVerified(u, options)
	s.Path = cmp.Or(u.EscapedPath(), defaultPath)
	return s, err
}

// parseVerified reads what TLS and HTTPS have in common.
func parseVerified(u *url.URL, options map[string]string) (Server, error) {
	host, err := parseHost(u.Hostname())
	if err != nil {
		return Server{}, err
	}
	name := host
	if options["name"] != "" {
		if name, err = parseHost(options["name"]); err != nil {
			return Server{}, fmt.Errorf("option name: %w", err)
		}
	}
	if options["address"] != "" {
		if host, err = parseIP(options["address"]); err != nil {
			return Server{}, fmt.Errorf("option address: %w", err)
		}
	}
	if name == host {
		name = ""
	}
	port, err := parsePort(cmp.Or(u.Port(), defaultPorts[u.Scheme]))
	return Server{Network: u.Scheme, Address: net.JoinHostPort(host, port), Name: name, CA: options["ca"]}, err
}

// parseOptions reads the query of a URL: each option once, and none that the
// scheme has no use for.
func parseOptions(u *url.URL) (map[string]string, error) {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, err
	}
	known := map[string][]string{
		networkTLS:   {"address", "ca", "name"},
		networkHTTPS: {"address", "ca"},
	}[u.Scheme]
	options := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		switch {
		case len(known) == 0:
			return nil, fmt.Errorf("option %q: expected none with %s", key, u.Scheme)
		case !slices.Contains(known, key):
			return nil, fmt.Errorf("option %q: expected one of %s", key, strings.Join(known, ", "))
		case len(values[key]) != 1 || values[key][0] == "":
			return nil, fmt.Errorf("option %s: expected one value", key)
		}
		options[key] = values[key][0]
	}
	return options, nil
}

func parseHost(text string) (string, error) {
	if ip, err := parseIP(text); err == nil {
		return ip, nil
	}
	name := plain(text)
	if !validName(name) {
		return "", fmt.Errorf("%q: expected a host name or an IP address", text)
	}
	return name, nil
}

func parseIP(text string) (string, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.IsUnspecified() || ip.Zone() != "" && !validName(ip.Zone()) {
		return "", fmt.Errorf("%q: expected an IP address", text)
	}
	return ip.String(), nil
}

func parsePort(text string) (string, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return "", fmt.Errorf("port %q: expected a number from 1 to 65535", text)
	}
	return strconv.FormatUint(port, 10), nil
}

// validName tells whether a plain name is one that hosts have: labels of
// letters, digits, hyphens and underscores. Nothing else is asked for, so that
// no backslash or dot inside a label changes what a name means on its way.
func validName(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return len(name) <= maxNameLen
}
