package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"
)

// Network is a network's prefix, without host bits.
type Network netip.Prefix

var (
	errNetwork = errors.New("want a network such as 10.0.0.0/8 or 2001:db8::/32, or an address")
	errMapped  = errors.New("write IPv4 networks as IPv4")
)

// UnmarshalText reads a prefix, or an address alone.
func (n *Network) UnmarshalText(text []byte) error {
	s := string(text)
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return errNetwork
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if prefix.Addr().Is4In6() {
		return errMapped
	}
	*n = Network(prefix.Masked())
	return nil
}

// Prefix returns n as a netip.Prefix.
func (n Network) Prefix() netip.Prefix { return netip.Prefix(n) }

// String writes n as a prefix.
func (n Network) String() string { return n.Prefix().String() }

func (Network) shape() shape {
	return shape{one: "a network", many: "networks", pattern: `^[0-9a-fA-F]*[.:][0-9a-fA-F.:]*(/[0-9]{1,3})?$`}
}

// Ports are those from First to Last.
type Ports struct{ First, Last uint16 }

var errPorts = errors.New("want a port such as 443, or a range such as 8000-8999")

// UnmarshalText reads a port or a range.
func (p *Ports) UnmarshalText(text []byte) error {
	from, to, isRange := strings.Cut(string(text), "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	switch {
	case err1 != nil || err2 != nil:
		return errPorts
	case first > last:
		return fmt.Errorf("the range is empty: write %d-%d", last, first)
	}
	*p = Ports{First: uint16(first), Last: uint16(last)}
	return nil
}

// String writes p as it is read.
func (p Ports) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

func (Ports) shape() shape {
	return shape{one: "a port", many: "ports", number: true, pattern: `^[0-9]{1,5}(-[0-9]{1,5})?$`}
}

// FileMode is the permissions of a file.
type FileMode fs.FileMode

// UnmarshalText reads octal digits, as chmod does.
func (m *FileMode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(string(text), "0o"), 8, 16)
	if err != nil || n == 0 || n > 0o777 {
		return errors.New("want permissions in octal digits, such as 0660")
	}
	*m = FileMode(n)
	return nil
}

// String writes m as it is read.
func (m FileMode) String() string { return fmt.Sprintf("%#04o", uint32(m)) }

func (FileMode) shape() shape {
	return shape{one: "a file mode", many: "file modes", number: true, pattern: `^(0|0o)?[0-7]{1,3}$`}
}
