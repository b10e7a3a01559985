// Package source says where connections come from: which local address, which
// interface, which firewall mark. A pool may be whole prefixes that are routed to
// this host, of which no interface has an address.
package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/argyle-socks/argyle"
)

// Pick is how to choose among the addresses of a [Source].
type Pick string

// The ways to choose.
const (
	Random Pick = "random"      // any, for every connection; also ""
	Turn   Pick = "turn"        // one prefix after the other, and their addresses in order
	User   Pick = "user"        // the same for a user, or else for a client: its IPv4 address, or its /64
	Dest   Pick = "destination" // the same for a destination host
)

// A Source is where connections come from. Its methods Local and Control are for
// the fields of an [argyle.Direct]. The zero Source leaves all to the system.
type Source struct {
	// Addrs are the addresses: single ones are prefixes of full length.
	Addrs []netip.Prefix

	// Pick is how to choose one; "" is [Random].
	Pick Pick

	// Interface, if not "", is the network interface to go out by (Linux).
	Interface string

	// Mark, if not 0, is the firewall mark of the packets (Linux).
	Mark uint32

	turn4, turn6 atomic.Uint64
}

// Check says what is wrong with the fields.
func (s *Source) Check() error {
	switch s.Pick {
	case "", Random, Turn, User, Dest:
	default:
		return fmt.Errorf("pick %q: want random, turn, user or destination", s.Pick)
	}
	if s.Pick != "" && len(s.Addrs) == 0 {
		return fmt.Errorf("pick %s: there are no addresses to choose from", s.Pick)
	}
	for i, p := range s.Addrs {
		if err := checkAddr(p); err != nil {
			return err
		}
		if slices.Contains(s.Addrs[:i], p) {
			return fmt.Errorf("%v is there twice", p)
		}
	}
	return s.supported()
}

func checkAddr(p netip.Prefix) error {
	ip := p.Addr()
	switch {
	case !p.IsValid():
		return errors.New("an address is not valid")
	case ip.Is4In6():
		return fmt.Errorf("%v: write it as IPv4", p)
	case ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("nothing can come from %v", p)
	case ip.Is6() && ip.IsLinkLocalUnicast():
		return fmt.Errorf("%v: an address of a link is not enough to find the link", p)
	}
	return nil
}

// errFamily is wrapped by what Local returns where it has no address: the race
// for the best address goes on with the other family.
var errFamily = fmt.Errorf("no source address of its family: %w", syscall.ENETUNREACH)

// Local chooses the address for a connection to remote, by the request in ctx.
func (s *Source) Local(ctx context.Context, remote netip.Addr) (netip.Addr, error) {
	if len(s.Addrs) == 0 {
		return netip.Addr{}, nil
	}
	is4 := remote.Unmap().Is4()
	n := 0
	for _, p := range s.Addrs {
		if p.Addr().Is4() == is4 {
			n++
		}
	}
	if n == 0 {
		return netip.Addr{}, fmt.Errorf("%v: %w", remote, errFamily)
	}
	switch s.Pick {
	case Turn:
		turn := s.turns(is4).Add(1) - 1
		return inside(s.nth(is4, turn%uint64(n)), turn/uint64(n)+1), nil
	case User, Dest:
		return s.sticky(is4, s.key(ctx, remote)), nil
	}
	return inside(s.nth(is4, rand.Uint64N(uint64(n))), rand.Uint64()), nil
}

// turns counts the turns of a family: a race tries both for one connection, and
// with one counter each would only ever see the odd or the even ones.
func (s *Source) turns(is4 bool) *atomic.Uint64 {
	if is4 {
		return &s.turn4
	}
	return &s.turn6
}

// nth returns the nth prefix of a family.
func (s *Source) nth(is4 bool, n uint64) netip.Prefix {
	for _, p := range s.Addrs {
		if p.Addr().Is4() != is4 {
			continue
		}
		if n == 0 {
			return p
		}
		n--
	}
	return netip.Prefix{}
}

// key is what a sticky choice goes by.
func (s *Source) key(ctx context.Context, remote netip.Addr) uint64 {
	req := argyle.RequestOf(ctx)
	switch {
	case s.Pick == Dest && req != nil && req.Dest.Name != "":
		// However a client writes a name, it is the same host.
		return digest("name", strings.ToLower(strings.TrimSuffix(req.Dest.Name, ".")))
	case s.Pick == Dest || req == nil:
		return digestAddr("address", remote.Unmap())
	case req.User != "":
		return digest("user", req.User)
	}
	client := req.Client.Addr().Unmap().WithZone("")
	if client.Is6() {
		prefix, _ := client.Prefix(64) // fails for no IPv6 address
		client = prefix.Addr()
	}
	return digestAddr("client", client)
}

// digest is the same on every host and after every restart: others write the
// addresses into their firewalls. Nobody gains by two names with one digest.
func digest(kind, text string) uint64 {
	h := uint64(0xcbf29ce484222325) // FNV-1a
	for _, s := range [...]string{kind, " ", text} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 0x100000001b3
		}
	}
	return h
}

func digestAddr(kind string, ip netip.Addr) uint64 {
	b := ip.As16()
	return digest(kind, string(b[:]))
}

// mix spreads the difference of two numbers over all bits.
func mix(n uint64) uint64 {
	n ^= n >> 30
	n *= 0xbf58476d1ce4e5b9
	n ^= n >> 27
	n *= 0x94d049bb133111eb
	return n ^ n>>31
}

// sticky chooses the prefix whose hash with the key is highest, so that one that
// comes or goes moves only its own users, and an address in it by that hash.
func (s *Source) sticky(is4 bool, key uint64) netip.Addr {
	var best netip.Prefix
	var most uint64
	for _, p := range s.Addrs {
		if p.Addr().Is4() != is4 {
			continue
		}
		if h := weigh(key, p); !best.IsValid() || h > most {
			best, most = p, h
		}
	}
	return inside(best, mix(most+0x9e3779b97f4a7c15))
}

// weigh hashes a key with a prefix.
func weigh(key uint64, p netip.Prefix) uint64 {
	b := p.Masked().Addr().As16()
	h := mix(key ^ binary.BigEndian.Uint64(b[:]))
	h = mix(h ^ binary.BigEndian.Uint64(b[8:]))
	return mix(h ^ uint64(p.Bits()))
}

// inside returns the address of a prefix that a number stands for. It is never
// one with a meaning of its own: the network and broadcast addresses of IPv4,
// the anycast address of the routers of IPv6 (RFC 4291, section 2.6.1).
func inside(p netip.Prefix, number uint64) netip.Addr {
	bits := p.Addr().BitLen() - p.Bits()
	if bits == 0 {
		return p.Addr()
	}
	size := uint64(0) // of the host part; 0 is 2^64
	if bits < 64 {
		size = 1 << bits
	}
	switch {
	case p.Addr().Is4() && bits > 1:
		number = 1 + number%(size-2)
	case p.Addr().Is4():
		number %= size
	case size == 0:
		number = max(number, 1)
	default:
		number = 1 + number%(size-1)
	}
	return add(p.Masked().Addr(), number, bits)
}

// add puts number into the host part of an address. What is longer than 64 bits
// gets a mixture of them in its upper half, too.
func add(network netip.Addr, number uint64, bits int) netip.Addr {
	b := network.As16()
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low|number)
	if bits > 64 {
		high := binary.BigEndian.Uint64(b[:])
		mixed := number * 0x9e3779b97f4a7c15 >> (128 - bits)
		binary.BigEndian.PutUint64(b[:], high|mixed)
	}
	ip := netip.AddrFrom16(b)
	if network.Is4() {
		return ip.Unmap()
	}
	return ip
}
