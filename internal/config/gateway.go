package config

import (
	"errors"
	"net/netip"
	"time"
)

// Gateway is what argyle gateway does (RFC 3089).
type Gateway struct {
	DNS       []Endpoint        `yaml:"dns" doc:"addresses at which names are answered, over UDP and TCP; port 53 if there is none"`
	Allow     []Network         `yaml:"allow" doc:"client networks: whose queries are answered and whose packets are taken; needed unless dns is on loopback only"`
	IPv4      Network           `yaml:"ipv4" doc:"addresses that stand for names; 198.18.0.0/15 if absent"`
	IPv6      Network           `yaml:"ipv6" doc:"the same of IPv6; a unique local /64 that the key in the journal chooses if absent"`
	Families  []GatewayFamilies `yaml:"families" doc:"which addresses names have, by client; the first that matches holds; both if none does"`
	NAT64     []NAT64           `yaml:"nat64" doc:"prefixes whose addresses are IPv4 addresses behind the proxy (RFC 6052); ipv4only.arpa tells of the first"`
	Map       map[string]string `yaml:"map" doc:"addresses that stand for one destination each, an address or a name"`
	Literals  string            `yaml:"literals" doc:"domain whose names spell addresses: 2001-db8--5.v6.lan if it is v6.lan"`
	Verify    bool              `yaml:"verify" doc:"ask the resolver whether a name exists before it gets an address"`
	Resolvers map[string]string `yaml:"resolvers" doc:"resolvers of domains and all below them, as host:port: asked over TCP by the way that rules have for the domain"`
	TTL       Duration          `yaml:"ttl" doc:"of the addresses, from 1s to 1h; 10s if absent"`
	Hold      Duration          `yaml:"hold" doc:"from the last use of an address until it may stand for another name; 24h if absent"`
	Share     int               `yaml:"share" doc:"names that one client may bring (an IPv4 address, an IPv6 /64); an eighth of the pool if absent, negative for no bound"`
	Journal   string            `yaml:"journal" doc:"file that keeps the names and the key; gateway.journal in the directory state, or in /var/lib/argyle, if absent"`
}

// GatewayFamilies is which addresses names have for some clients.
type GatewayFamilies struct {
	Families Families  `yaml:"families" short:"true" doc:"both, v4, v6, or auto: that of the address which the query comes from"`
	Client   []Network `yaml:"client" doc:"for whom; everybody if absent"`
}

// NAT64 is a prefix whose addresses have IPv4 addresses inside.
type NAT64 struct {
	Prefix Network `yaml:"prefix" short:"true" doc:"of 32, 40, 48, 56, 64 or 96 bits"`
	Name   string  `yaml:"name" doc:"what rules call the listener, and logs the inbound, of what goes there; gateway if absent"`
}

// GatewayName is what rules and logs call the way in of a gateway, where no
// prefix has a name of its own.
const GatewayName = "gateway"

// Families is which addresses names have.
type Families string

// What names have.
const (
	FamiliesBoth Families = "both"
	FamiliesV4   Families = "v4"
	FamiliesV6   Families = "v6"
	FamiliesAuto Families = "auto"
)

// UnmarshalText reads one of the values.
func (f *Families) UnmarshalText(text []byte) error { return choose(f, text) }

// String returns f as it is read.
func (f Families) String() string { return string(f) }

func (Families) shape() shape { return oneOf(FamiliesBoth, FamiliesV4, FamiliesV6, FamiliesAuto) }

// Endpoint is an address and port.
type Endpoint netip.AddrPort

// UnmarshalText reads 192.0.2.1:53, [2001:db8::1]:53, or an address without a
// port, which is then 53.
func (e *Endpoint) UnmarshalText(text []byte) error {
	ap, err := netip.ParseAddrPort(string(text))
	if err != nil {
		addr, err := netip.ParseAddr(string(text))
		if err != nil {
			return errors.New("want an address such as 192.0.2.1, 192.0.2.1:53 or [2001:db8::1]:53")
		}
		ap = netip.AddrPortFrom(addr, 53)
	}
	if ap.Addr().Is4In6() {
		return errors.New("write IPv4 addresses as IPv4")
	}
	*e = Endpoint(ap)
	return nil
}

// AddrPort returns e as a netip.AddrPort.
func (e Endpoint) AddrPort() netip.AddrPort { return netip.AddrPort(e) }

// String writes e as it is read.
func (e Endpoint) String() string { return e.AddrPort().String() }

func (Endpoint) shape() shape {
	return shape{one: "an address", many: "addresses", pattern: `^(\[[0-9a-fA-F:.]+(%.+)?\]:[0-9]{1,5}|[0-9]+\.[0-9.]+(:[0-9]{1,5})?|[0-9a-fA-F]*:[0-9a-fA-F]*:[0-9a-fA-F:.]*(%.+)?)$`}
}

// The bounds of gateway.ttl, and what holds if the key is absent.
const (
	minTTL     = time.Second
	maxTTL     = time.Hour
	defaultTTL = 10 * time.Second
)
