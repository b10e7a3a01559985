package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/argyle-socks/argyle"
)

// A pattern is one entry of Rule.Dests or of a set.
type pattern struct {
	kind patternKind
	text string       // of a name, in lower case and A-labels; of a set, its name
	net  netip.Prefix // of a network, masked
}

type patternKind byte

const (
	everything patternKind = iota
	exactName              // the name text
	domainName             // text and all below
	belowName              // all below text
	globName               // names that match text
	netPattern             // addresses in net
	setPattern             // what the set text has
)

// maxStars bounds what a glob costs: each star may be a walk over the name.
const maxStars = 16

// parsePattern reads one entry.
func parsePattern(text string) (pattern, error) {
	if text == "*" {
		return pattern{kind: everything}, nil
	}
	if name, ok := strings.CutPrefix(text, "set:"); ok {
		return pattern{kind: setPattern, text: name}, nil
	}
	if strings.Contains(text, "/") {
		n, err := netip.ParsePrefix(text)
		if err != nil {
			return pattern{}, fmt.Errorf("%q is not a network", text)
		}
		return pattern{kind: netPattern, net: plainPrefix(n)}, nil
	}
	if ip, err := netip.ParseAddr(text); err == nil {
		if ip.Zone() != "" {
			return pattern{}, fmt.Errorf("%q: a zone says nothing here", text)
		}
		ip = ip.Unmap()
		return pattern{kind: netPattern, net: netip.PrefixFrom(ip, ip.BitLen())}, nil
	}
	p, err := parseName(text)
	if err != nil {
		return pattern{}, fmt.Errorf("%q: %w", text, err)
	}
	return p, nil
}

// parseName reads a name, a domain or a glob.
func parseName(text string) (pattern, error) {
	p := pattern{kind: exactName}
	rest, isDomain := strings.CutPrefix(text, ".")
	rest = strings.TrimSuffix(rest, ".")
	if isDomain {
		p.kind = domainName
	}
	var err error
	if p.text, err = patternName(rest); err != nil {
		return pattern{}, err
	}
	if !strings.ContainsAny(p.text, "*?") {
		return p, nil
	}
	switch below, ok := strings.CutPrefix(p.text, "*."); {
	case strings.Trim(p.text, "*") == "":
		return pattern{}, errors.New("everything is *")
	case isDomain:
		return pattern{}, errors.New("a domain with a wildcard")
	case strings.Trim(p.text, "0123456789.*?") == "" && strings.ContainsAny(p.text, "0123456789"):
		return pattern{}, errors.New("globs are for names; write addresses as a network, such as 10.0.0.0/8")
	case strings.Count(p.text, "*") > maxStars:
		return pattern{}, fmt.Errorf("more than %d stars", maxStars)
	case ok && !strings.ContainsAny(below, "*?"):
		return pattern{kind: belowName, text: below}, nil
	}
	p.kind = globName
	return p, nil
}

// patternName brings a name or glob into the form in which names are compared.
func patternName(text string) (string, error) {
	if !utf8.ValidString(text) {
		return "", errors.New("not UTF-8")
	}
	if !isASCII(text) {
		// Label by label, for a wildcard has no place in an A-label.
		labels := strings.Split(text, ".")
		for i, label := range labels {
			if isASCII(label) {
				continue
			}
			if strings.ContainsAny(label, "*?") {
				return "", errors.New("a wildcard in a label that is not ASCII")
			}
			ascii, err := lookupProfile.ToASCII(label)
			if err != nil {
				return "", err
			}
			labels[i] = ascii
		}
		text = strings.Join(labels, ".")
	}
	addr, err := argyle.ParseHost(text, 0)
	var reason *net.DNSError
	switch {
	case errors.As(err, &reason):
		return "", errors.New(reason.Err)
	case err != nil:
		return "", err
	case addr.Name == "":
		return "", errors.New("an address in disguise")
	case strings.HasPrefix(text, ".") || strings.Contains(text, ".."):
		return "", errors.New("an empty label")
	}
	return strings.ToLower(text), nil
}

// plainPrefix masks a network, and makes IPv4 of an IPv4-mapped one.
func plainPrefix(n netip.Prefix) netip.Prefix {
	n = n.Masked()
	if n.Addr().Is4In6() && n.Bits() >= 96 {
		return netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
	}
	return n
}

// plainAddr is an address as it is compared with networks.
func plainAddr(ip netip.Addr) netip.Addr { return ip.Unmap().WithZone("") }

// lookupProfile maps names as idna.Lookup does, but lets through what an
// upstream may know: underscores and hyphens where they should not be.
var lookupProfile = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(false), idna.CheckHyphens(false))

// appendName appends a name in the form in which names are compared: in lower
// case, in A-labels, without a final dot.
func appendName(b []byte, name string) []byte {
	if !isASCII(name) {
		// Of a name with errors this is as much as can be mapped: it has no
		// A-labels, and the rest of it is matched all the same.
		name, _ = lookupProfile.ToASCII(name)
	}
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	if n := len(b); n > 0 && b[n-1] == '.' {
		b = b[:n-1]
	}
	return b
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// asciiName is a name as resolvers need it, the same as the one that
// [argyle.Direct] asks them for. The error is a [*net.DNSError].
func asciiName(name string) (string, error) {
	if isASCII(name) {
		return name, nil
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return "", &net.DNSError{Err: err.Error(), Name: name, IsNotFound: true}
	}
	return ascii, nil
}

// checkDisguise refuses a name that is an address once it is mapped, as
// full-width digits are: no rule about addresses would see it, and who resolves
// the name might. Ways in make addresses of literals, so that a plain one is
// here by mistake.
func checkDisguise(name string) error {
	plain := name
	if !isASCII(name) {
		plain = string(appendName(nil, name))
	}
	if addr, err := argyle.ParseHost(plain, 0); err != nil || addr.Name == "" {
		return &net.DNSError{Err: "neither an address nor a host name", Name: name, IsNotFound: true}
	}
	return nil
}
