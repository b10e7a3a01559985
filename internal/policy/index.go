package policy

import (
	"iter"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
)

// index is the rules and sets of one moment, in a form in which the first rule
// that matches a request is found without asking them one after the other.
//
// For each condition, a value of the request gives a set of rules for which the
// condition holds. A rule that is in all of these sets matches. A set has one
// bit a rule, so that the work is bounded by the number of rules / 64, whatever
// they are, and most of it is the few values that a request has.
type index struct {
	rules    int
	commands [5]bitset // rules that are about a command, by its number

	inbounds, users, groups, auth keyed
	clients                       dimension
	clientNets                    *netIndex
	ports, minutes                ranged

	dests     dimension
	destNames nameIndex
	destNets  *netIndex
	wantIP    bitset // rules with networks among their destinations
	denies    bitset
	overlook  bitset // rules that deny some destinations: no answer to a request without one
}

// question is what the rules are asked.
type question struct {
	command Command
	req     *argyle.Request
	client  netip.Addr     // plain; not valid on a unix socket
	name    string         // as asked for; "" if there is none
	addr    netip.AddrPort // plain; not valid if it is not known
	port    uint16         // that was asked for
	now     func() time.Time
}

// nowhere reports whether the question is about some destination that will be
// told later, as of a UDP ASSOCIATE.
func (q *question) nowhere() bool {
	return q.command == UDP && q.name == "" && !q.addr.IsValid()
}

// answer is the first rule that matches, -1 if there is none. If it is
// undecided, that depends on the address of the name.
type answer struct {
	rule      int
	undecided bool
}

// scratch is what one question needs for its answer.
type scratch struct {
	left, held, other bitset
	name              []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// resize makes room for x's rules.
func (s *scratch) resize(x *index) {
	words := len(x.denies)
	if cap(s.left) < words {
		s.left, s.held, s.other = make(bitset, words), make(bitset, words), make(bitset, words)
	}
	s.left, s.held, s.other = s.left[:words], s.held[:words], s.other[:words]
}

// ask finds the first rule that matches.
func (x *index) ask(q *question) answer {
	if q.command.number() < 0 || x.rules == 0 {
		return answer{rule: -1}
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	s.resize(x)
	x.askAboutAllButHost(q, s)
	if q.nowhere() {
		s.left.andNot(x.overlook)
		return answer{rule: s.left.first()}
	}
	return x.askAboutHost(q, s)
}

// candidates calls yield with the rules of which one decides, whatever the
// address of q's name is: from the first that might match to the first that
// does.
func (x *index) candidates(q *question, yield func(rule int)) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	s.resize(x)
	x.askAboutAllButHost(q, s)
	x.holdName(q, s)
	copy(s.other, s.held)
	s.other.or(x.wantIP)
	s.left.and(s.other)
	for rule := range s.left.all() {
		yield(rule)
		if s.held.has(uint32(rule)) {
			return
		}
	}
}

// concerns reports whether a rule might match for a command, wherever the
// request goes.
func (x *index) concerns(q *question) bool {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	s.resize(x)
	copy(s.left, x.commands[q.command.number()])
	x.askAboutClient(q, s)
	return s.left.first() >= 0
}

// ofRealm returns what the members of the realm of a request's user are called,
// as *@EXAMPLE.COM. Only a ticket says that somebody is of a realm: a name with
// an @ that a certificate or a password has may be an e-mail address.
func ofRealm(req *argyle.Request) (name string, ok bool) {
	at := strings.LastIndexByte(req.User, '@')
	if req.Auth != argyle.AuthGSSAPI || at < 0 {
		return "", false
	}
	return "*" + req.User[at:], true
}

// Members calls yield with what a request's user may be called in a group: by
// name, by realm, as *@EXAMPLE.COM, if a ticket tells it, and by the groups that
// authentication told.
func Members(req *argyle.Request) iter.Seq[string] {
	return func(yield func(string) bool) {
		user := req.User
		if user == "" {
			return
		}
		// A certificate may call somebody what only a group is called.
		if !strings.HasPrefix(user, "sid:") && !yield(user) {
			return
		}
		if realm, ok := ofRealm(req); ok && !yield(realm) {
			return
		}
		for _, group := range req.Groups {
			if !yield(group) {
				return
			}
		}
	}
}

// askAboutAllButHost leaves the rules whose conditions on all but the host of
// the destination hold.
func (x *index) askAboutAllButHost(q *question, s *scratch) {
	copy(s.left, x.commands[q.command.number()])
	x.askAboutClient(q, s)
	if x.ports.cares && !q.nowhere() {
		copy(s.held, x.ports.unset)
		x.ports.match(s.held, uint(q.port))
		s.left.and(s.held)
	}
}

// askAboutClient leaves the rules whose conditions on all but the destination
// hold.
func (x *index) askAboutClient(q *question, s *scratch) {
	x.inbounds.hold(s, q.req.Inbound)
	x.auth.hold(s, string(q.req.Auth))
	if x.groups.cares {
		copy(s.held, x.groups.unset)
		for member := range Members(q.req) {
			x.groups.match(s.held, member)
		}
		s.left.and(s.held)
	}
	if x.users.cares {
		copy(s.held, x.users.unset)
		if user := q.req.User; user != "" {
			x.users.match(s.held, user)
			x.users.match(s.held, "*")
			if realm, ok := ofRealm(q.req); ok {
				x.users.match(s.held, realm)
			}
		}
		s.left.and(s.held)
	}
	if x.clients.cares {
		copy(s.held, x.clients.unset)
		if q.client.IsValid() {
			x.clientNets.match(q.client, func(list uint32) { x.clients.add(s.held, list) })
		}
		s.left.and(s.held)
	}
	if x.minutes.cares {
		copy(s.held, x.minutes.unset)
		x.minutes.match(s.held, uint(minuteOf(q.now())))
		s.left.and(s.held)
	}
}

// hold leaves the rules for which the condition holds.
func (k *keyed) hold(s *scratch, value string) {
	if k.cares {
		copy(s.held, k.unset)
		k.match(s.held, value)
		s.left.and(s.held)
	}
}

// holdName sets in s.held the rules whose destinations have q's name, or that
// have none.
func (x *index) holdName(q *question, s *scratch) {
	copy(s.held, x.dests.unset)
	if q.name != "" {
		s.name = appendName(s.name[:0], q.name)
		x.destNames.match(s.name, func(list uint32) { x.dests.add(s.held, list) })
	}
}

// askAboutHost finds the first of the rules that are left whose destinations
// have q's, or might have it.
func (x *index) askAboutHost(q *question, s *scratch) answer {
	if !x.dests.cares {
		return answer{rule: s.left.first()}
	}
	x.holdName(q, s)
	if q.addr.IsValid() {
		x.addAddr(q.addr.Addr(), s)
		s.left.and(s.held)
		return answer{rule: s.left.first()}
	}
	if q.name == "" {
		s.left.and(s.held)
		return answer{rule: s.left.first()}
	}
	copy(s.other, s.held)
	s.other.or(x.wantIP)
	s.left.and(s.other)
	rule := s.left.first()
	return answer{rule, rule >= 0 && !s.held.has(uint32(rule))}
}

// addAddr adds the rules about an address. Those that deny an IPv4 network
// hold for its addresses inside IPv6, too; those that allow one do not.
func (x *index) addAddr(ip netip.Addr, s *scratch) {
	x.destNets.match(ip, func(list uint32) { x.dests.add(s.held, list) })
	if !ip.Is6() {
		return
	}
	var buf [maxEmbedded]netip.Addr
	inside := embedded(buf[:0], ip)
	if len(inside) == 0 {
		return
	}
	clear(s.other)
	for _, v4 := range inside {
		x.destNets.match(v4, func(list uint32) { x.dests.add(s.other, list) })
	}
	s.other.and(x.denies)
	s.held.or(s.other)
}

// namesPrivate reports whether a rule's destinations have a wholly private
// network that ip is in.
func (x *index) namesPrivate(rule int, ip netip.Addr) bool {
	return x.destNets.anyPrivate(ip, func(list uint32) bool { return x.dests.has(list, uint32(rule)) })
}
