package main

import (
	"iter"
	"net/netip"
	"strconv"
	"strings"

	"github.com/argyle-socks/argyle"
)

// noProxy reports whether list, the value of NO_PROXY, names dest: as "*", as
// a name or its domain (with or without a dot before it), as an address or
// CIDR prefix, each perhaps with a port.
func noProxy(list string, dest argyle.Addr) bool {
	for entry := range noProxyEntries(list) {
		if matchNoProxy(entry, dest) {
			return true
		}
	}
	return false
}

func noProxyEntries(list string) iter.Seq[string] {
	return strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func matchNoProxy(entry string, dest argyle.Addr) bool {
	if entry == "*" {
		return true
	}
	if prefix, err := netip.ParsePrefix(entry); err == nil {
		return prefix.Contains(dest.IP)
	}
	host, port := splitEntry(entry)
	if port != 0 && port != dest.Port {
		return false
	}
	if ip, err := netip.ParseAddr(trimBrackets(host)); err == nil {
		return dest.IP == ip.Unmap()
	}
	name := strings.TrimSuffix(strings.ToLower(dest.Name), ".")
	domain := strings.Trim(strings.ToLower(strings.TrimPrefix(host, "*")), ".")
	return name != "" && domain != "" && (name == domain || strings.HasSuffix(name, "."+domain))
}

// splitEntry takes a port off an entry; 0 if it has none.
func splitEntry(entry string) (host string, port uint16) {
	i := strings.LastIndexByte(entry, ':')
	if i < 0 || strings.Contains(entry[:i], ":") && entry[i-1] != ']' {
		return entry, 0 // a name, or IPv6 without brackets
	}
	n, err := strconv.ParseUint(entry[i+1:], 10, 16)
	if err != nil {
		return entry, 0
	}
	return entry[:i], uint16(n)
}
