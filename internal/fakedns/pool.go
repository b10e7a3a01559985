package fakedns

import (
	"bytes"
	"container/list"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrFull is what Addrs returns if a name cannot have an address before others
// have been out of use for long enough.
var ErrFull = errors.New("no address is free")

const keySize = 32

// Options says how a Pool chooses addresses. The zero Options is a pool that
// lives as long as the process.
type Options struct {
	IPv4    netip.Prefix  // zero: 198.18.0.0/15, which is routed nowhere (RFC 2544)
	IPv6    netip.Prefix  // zero: a unique local /64 that the key chooses (RFC 4193)
	Key     []byte        // chooses the address of a name; nil: the journal's, or else random
	Names   int           // that the pool holds at most; zero: seven eighths of the smaller prefix, which is the bound
	Share   int           // of them, what one client may bring (an IPv4 address, an IPv6 /64); zero: an eighth, negative: all
	Hold    time.Duration // from the last use of an address until it may stand for another name; zero: 24 hours
	Journal string        // a file that keeps the names from one run to the next; "": none

	// Reserved are addresses of the prefixes that shall stand for no name, nor
	// what goes with them in the other family.
	Reserved []netip.Addr
}

// A Pool is names and the addresses that stand for them. A name has one
// address of either family, the same one as long as the pool lives. Letter
// case and a final dot do not matter.
type Pool struct {
	space space
	key   []byte
	names int // at most
	share int // at most
	hold  time.Duration
	late  time.Duration // a use is on record after this long

	mu       sync.Mutex
	reserved map[uint32]bool
	slots    map[uint32]*entry
	byName   map[string]*entry
	recent   list.List                   // of *entry without the pinned ones, the last used in front
	clients  map[netip.Prefix]*list.List // the same, by who brought them
	journal  *journal                    // nil: none
}

// An entry is a name and its slot. An entry that byName does not have is a
// former address of its name, which a pin has moved.
type entry struct {
	name   string
	slot   uint32
	client netip.Prefix // invalid: nobody's
	used   time.Time
	saved  time.Time // what the journal has as used
	pinned bool

	recent, own *list.Element // nil if pinned
}

// An Entry is a name of a Pool.
type Entry struct {
	Name       string
	IPv4, IPv6 netip.Addr
	Client     netip.Prefix // who brought it; the zero Prefix if nobody did
	Used       time.Time
	Pinned     bool
}

// Open returns a Pool. It must be closed if it has a journal.
func Open(o Options) (*Pool, error) {
	p := &Pool{reserved: map[uint32]bool{}, slots: map[uint32]*entry{}, byName: map[string]*entry{}, clients: map[netip.Prefix]*list.List{}}
	p.hold = o.Hold
	if p.hold == 0 {
		p.hold = 24 * time.Hour
	}
	var kept *state
	if o.Journal != "" {
		var err error
		if p.journal, kept, err = openJournal(o.Journal); err != nil {
			return nil, err
		}
	}
	if err := p.fill(o, kept); err != nil {
		if p.journal != nil {
			_ = p.journal.close() // the error is another
		}
		return nil, err
	}
	return p, nil
}

// fill takes over what the journal has kept, nil if it is new or there is none.
func (p *Pool) fill(o Options, kept *state) error {
	p.key = bytes.Clone(o.Key)
	if kept != nil && len(p.key) == 0 {
		p.key = kept.key
	}
	if len(p.key) == 0 {
		p.key = make([]byte, keySize)
		rand.Read(p.key)
	}
	if err := p.choose(o, kept); err != nil {
		return err
	}
	p.limit(o)
	if p.journal == nil {
		return p.reserve(o.Reserved)
	}
	p.late = p.hold / 24
	p.hold += p.late // an address may have been used later than the journal says
	if kept == nil {
		p.journal.begin(0)
	} else {
		p.journal.begin(kept.newest)
		if err := p.restore(kept); err != nil {
			return fmt.Errorf("journal %s: %w", o.Journal, err)
		}
	}
	if err := p.reserve(o.Reserved); err != nil {
		return err
	}
	return p.journal.rewrite(p.snapshot())
}

// reserve keeps addresses from names, and is an error if one has a name that may
// be in use.
func (p *Pool) reserve(addrs []netip.Addr) error {
	now := time.Now()
	for _, addr := range addrs {
		slot, ok := p.space.slot(addr)
		if !ok {
			continue
		}
		if e := p.slots[slot]; e != nil {
			if e.pinned || now.Sub(e.used) < p.hold {
				return fmt.Errorf("%v stands for %s already: unpin that, wait until nobody has used it for %v, or take another address",
					addr, e.name, p.hold)
			}
			p.remove(e)
		}
		p.reserved[slot] = true
	}
	p.names -= len(p.reserved) // or the search for a free slot might not end
	if p.names < 1 {
		return fmt.Errorf("%d reserved addresses are too many for %v and %v", len(p.reserved), p.space.v4, p.space.v6)
	}
	return nil
}

// choose sets the prefixes.
func (p *Pool) choose(o Options, kept *state) error {
	v4, v6 := o.IPv4, o.IPv6
	if kept != nil {
		if !v4.IsValid() {
			v4 = kept.v4
		}
		if !v6.IsValid() {
			v6 = kept.v6
		}
		if v4 != kept.v4 || v6 != kept.v6 {
			return fmt.Errorf("journal %s is of a pool of %v and %v, not %v and %v: give those, or move the file away",
				o.Journal, kept.v4, kept.v6, v4, v6)
		}
	}
	if !v4.IsValid() {
		v4 = netip.MustParsePrefix("198.18.0.0/15")
	}
	if !v6.IsValid() {
		v6 = localPrefix(p.key)
	}
	var err error
	p.space, err = newSpace(v4, v6)
	return err
}

func (p *Pool) limit(o Options) {
	p.names = int(p.space.slots) / 8 * 7 // more, and a free slot would take long to find
	if o.Names > 0 {
		p.names = min(p.names, o.Names)
	}
	switch {
	case o.Share < 0:
		p.share = p.names
	case o.Share == 0:
		p.share = max(p.names/8, 1)
	default:
		p.share = o.Share
	}
}

// Prefixes returns the networks that the addresses are from.
func (p *Pool) Prefixes() (v4, v6 netip.Prefix) { return p.space.v4, p.space.v6 }

// Contains reports whether addr is of the pool's networks. It need not stand
// for a name: one that does not must be refused.
func (p *Pool) Contains(addr netip.Addr) bool {
	addr = plain(addr)
	return p.space.v4.Contains(addr) || p.space.v6.Contains(addr)
}

// Name returns the name that addr stands for.
func (p *Pool) Name(addr netip.Addr) (string, bool) {
	slot, ok := p.space.slot(addr)
	if !ok {
		return "", false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.slots[slot]
	if !ok {
		return "", false
	}
	p.touch(e, time.Now())
	return e.name, true
}

// Use notes that a name is in use: that somebody has a connection to it, say. A
// name that has no address gets none by that.
func (p *Pool) Use(name string) {
	name, err := canonical(name)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.byName[name]; ok {
		p.touch(e, time.Now())
	}
}

// Addrs returns the addresses that stand for a name, which client has asked
// for. The error is ErrFull, or of the journal: what is not on record is not
// given out.
func (p *Pool) Addrs(client netip.Addr, name string) (v4, v6 netip.Addr, err error) {
	name, err = canonical(name)
	if err != nil {
		return v4, v6, err
	}
	slot, sync, err := p.assign(client, name)
	if err != nil {
		return v4, v6, err
	}
	if sync != nil {
		sync() // others need not wait for the disk
	}
	v4, v6 = p.space.addrs(slot)
	return v4, v6, nil
}

// assign also returns what is to be done without the lock, nil for nothing.
func (p *Pool) assign(client netip.Addr, name string) (slot uint32, sync func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if e, ok := p.byName[name]; ok {
		p.touch(e, now)
		return e.slot, nil, nil
	}
	e, err := p.take(name, clientPrefix(client), now)
	if err != nil {
		return 0, nil, err
	}
	if p.journal != nil {
		sync = p.journal.due(now)
	}
	return e.slot, sync, nil
}

// take gives a new name a slot, that of an old one if it must.
func (p *Pool) take(name string, client netip.Prefix, now time.Time) (*entry, error) {
	var old *entry
	if own := p.clients[client]; own != nil && own.Len() >= p.share {
		if old = p.stale(own, now); old == nil {
			return nil, fmt.Errorf("%w for %v, which has %d names", ErrFull, client, own.Len())
		}
	} else if len(p.slots) >= p.names {
		if old = p.stale(&p.recent, now); old == nil {
			return nil, fmt.Errorf("%w: there are %d names", ErrFull, len(p.slots))
		}
	}
	e := &entry{name: name, slot: p.free(name, old), client: client, used: now, saved: now}
	if err := p.record(old, e); err != nil {
		return nil, err
	}
	if old != nil {
		p.remove(old)
	}
	p.insert(e)
	p.tidy()
	return e, nil
}

// stale returns the entry of a list that was not used for longest, if that is
// long enough.
func (p *Pool) stale(l *list.List, now time.Time) *entry {
	if l.Len() == 0 {
		return nil
	}
	if e := l.Back().Value.(*entry); now.Sub(e.used) >= p.hold {
		return e
	}
	return nil
}

// free returns the slot of a name: its first choice, or the next that is free
// or that of old.
func (p *Pool) free(name string, old *entry) uint32 {
	slot := p.space.first(p.key, name)
	for p.reserved[slot] || p.slots[slot] != nil && p.slots[slot] != old {
		slot = (slot + 1) % p.space.slots
	}
	return slot
}

// touch notes a use.
func (p *Pool) touch(e *entry, now time.Time) {
	e.used = now
	if e.pinned {
		return
	}
	p.recent.MoveToFront(e.recent)
	p.clients[e.client].MoveToFront(e.own)
	if p.journal != nil && now.Sub(e.saved) >= p.late {
		// If this fails the next use tries again; the name is on record.
		if p.record(nil, e) == nil {
			e.saved = now
			p.tidy()
		}
	}
}

func (p *Pool) insert(e *entry) {
	p.slots[e.slot] = e
	p.byName[e.name] = e
	if !e.pinned {
		p.enlist(e)
	}
}

func (p *Pool) remove(e *entry) {
	delete(p.slots, e.slot)
	if p.byName[e.name] == e {
		delete(p.byName, e.name)
	}
	if !e.pinned {
		p.delist(e)
	}
}

func (p *Pool) enlist(e *entry) {
	own, ok := p.clients[e.client]
	if !ok {
		own = list.New()
		p.clients[e.client] = own
	}
	e.recent, e.own = p.recent.PushFront(e), own.PushFront(e)
}

func (p *Pool) delist(e *entry) {
	own := p.clients[e.client]
	own.Remove(e.own)
	if own.Len() == 0 {
		delete(p.clients, e.client)
	}
	p.recent.Remove(e.recent)
	e.recent, e.own = nil, nil
}

// Entries returns all names, by address. A name that was pinned to another
// address while it had one is there twice.
func (p *Pool) Entries() []Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Entry, 0, len(p.slots))
	for slot, e := range p.slots {
		one := Entry{Name: e.name, Client: e.client, Used: e.used, Pinned: e.pinned}
		one.IPv4, one.IPv6 = p.space.addrs(slot)
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Entry) int { return a.IPv4.Compare(b.IPv4) })
	return all
}

// Close ends the journal. Without one it does nothing.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.journal == nil {
		return nil
	}
	return p.journal.close()
}

// canonical is the form in which names are kept. It refuses what is neither a
// host name nor an IP address.
func canonical(name string) (string, error) {
	short := strings.ToLower(strings.TrimSuffix(name, "."))
	if isHostName(short) {
		return short, nil
	}
	if addr, err := netip.ParseAddr(short); err == nil && addr.Zone() == "" {
		return addr.Unmap().String(), nil
	}
	return "", fmt.Errorf("%q is not a host name", name)
}
