package config

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// ForwardSpec is what argyle forward carries from one place to another, as
// tcp/127.0.0.1:5432=db.lan:5432.
type ForwardSpec struct {
	Network string // tcp, udp, unix, stdio or bind
	Listen  string // where others come: host:port or :port, a path, or for bind who may come
	Dest    string // where they are carried: host:port, or unix:/path for bind
}

var errForward = errors.New("want tcp/[HOST:]PORT=HOST:PORT, udp/[HOST:]PORT=HOST:PORT, unix:/PATH=HOST:PORT, " +
	"stdio=HOST:PORT or bind/HOST:PORT=HOST:PORT")

// UnmarshalText reads one.
func (s *ForwardSpec) UnmarshalText(text []byte) error {
	from, dest, found := strings.Cut(string(text), "=")
	if !found {
		return errForward
	}
	f := ForwardSpec{Dest: dest}
	if path, ok := strings.CutPrefix(from, "unix:"); ok {
		f.Network, f.Listen = "unix", path
	} else {
		f.Network, f.Listen, _ = strings.Cut(from, "/")
	}
	switch f.Network {
	case "tcp", "udp":
		if _, err := strconv.ParseUint(f.Listen, 10, 16); err == nil {
			f.Listen = ":" + f.Listen
		}
		if err := checkListenAddress(f.Listen); err != nil {
			return fmt.Errorf("%w: where to listen: %w", errForward, err)
		}
	case "unix":
		if f.Listen == "" {
			return fmt.Errorf("%w: unix: without a path", errForward)
		}
	case "stdio":
		if from != "stdio" {
			return errForward
		}
	case "bind":
		if _, err := hostPort(f.Listen); err != nil {
			return fmt.Errorf("%w: who may come, 0.0.0.0:0 for anybody: %w", errForward, err)
		}
		if path, ok := strings.CutPrefix(dest, "unix:"); ok && path != "" {
			*s = f
			return nil
		}
	default:
		return errForward
	}
	if port, err := hostPort(dest); err != nil || port == 0 {
		if err == nil {
			err = errors.New("port 0 cannot be connected to")
		}
		return fmt.Errorf("%w: where to: %w", errForward, err)
	}
	*s = f
	return nil
}

// hostPort looks at host:port and returns the port.
func hostPort(s string) (uint16, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return 0, fmt.Errorf("%s: want host:port, IPv6 in brackets", quote(s))
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" || strings.ContainsAny(s, " \t\n") {
		return 0, fmt.Errorf("%s: want host:port, IPv6 in brackets", quote(s))
	}
	return uint16(n), nil
}

// String writes s as it is read.
func (s ForwardSpec) String() string { return s.From() + "=" + s.Dest }

// From is what is before the =, and the name of a forward without one.
func (s ForwardSpec) From() string {
	switch s.Network {
	case "unix":
		return "unix:" + s.Listen
	case "stdio":
		return "stdio"
	}
	return s.Network + "/" + strings.TrimPrefix(s.Listen, ":")
}

func (ForwardSpec) shape() shape {
	return shape{one: "a forward", many: "forwards", pattern: `^(tcp/|udp/|unix:|stdio=|bind/).*=?.+$`}
}

// name is what rules call the forward.
func (f *Forward) name() string {
	if f.Name != "" {
		return f.Name
	}
	return f.Spec.From()
}

// forwards checks the ways in of argyle forward.
func (c *checker) forwards() {
	names := make(map[string]int)
	for i := range c.f.Forward {
		f, path := &c.f.Forward[i], indexed("forward", i)
		if f.Spec.Network == "" {
			if !c.incomplete(path) {
				c.fail(path, "a forward needs a spec: %w", errForward)
			}
			continue
		}
		if first, twice := names[f.name()]; twice {
			c.fail(path, "%q is there twice, first %s", f.name(), c.f.Line(indexed("forward", first)))
			continue
		}
		names[f.name()] = i
	}
}
