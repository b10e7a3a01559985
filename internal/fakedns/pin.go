package fakedns

import (
	"fmt"
	"net/netip"
	"time"
)

// Pin gives a name, which may be an IP address, one address for good: addr and
// that of the other family which goes with it, or those that the name would
// have anyway if addr is the zero Addr. A former address stands for the name
// until its time is over.
func (p *Pool) Pin(name string, addr netip.Addr) error {
	name, err := canonical(name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	e := &entry{name: name, used: now, saved: now, pinned: true}
	former := p.byName[name]
	switch {
	case addr.IsValid():
		slot, ok := p.space.slot(addr)
		if !ok {
			return fmt.Errorf("pin %s: %v is not an address that the pool gives", name, addr)
		}
		if p.reserved[slot] {
			return fmt.Errorf("pin %s: %v is reserved for something else", name, addr)
		}
		e.slot = slot
	case former != nil:
		e.slot = former.slot
	case len(p.slots) >= p.names:
		return fmt.Errorf("pin %s: %w", name, ErrFull)
	default:
		e.slot = p.free(name, nil)
	}
	return p.pin(e, former, now)
}

// pin puts e in the place of what its slot has.
func (p *Pool) pin(e, former *entry, now time.Time) error {
	old := p.slots[e.slot]
	if old != nil && old.name != e.name && (old.pinned || now.Sub(old.used) < p.hold) {
		v4, v6 := p.space.addrs(e.slot)
		return fmt.Errorf("pin %s: %v and %v stand for %s", e.name, v4, v6, old.name)
	}
	if former != nil && former != old && former.pinned {
		// It may still be in use, and needs an end.
		if err := p.unpin(former, now); err != nil {
			return err
		}
	}
	if err := p.record(old, e); err != nil {
		return err
	}
	if old != nil {
		p.remove(old)
	}
	p.insert(e)
	p.tidy()
	return nil
}

// Unpin makes a pinned name one like others. It does nothing if there is none.
func (p *Pool) Unpin(name string) error {
	name, err := canonical(name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.byName[name]; e != nil && e.pinned {
		return p.unpin(e, time.Now())
	}
	return nil
}

func (p *Pool) unpin(e *entry, now time.Time) error {
	loose := *e
	loose.pinned, loose.used, loose.saved = false, now, now
	if err := p.record(nil, &loose); err != nil {
		return err
	}
	*e = loose
	p.enlist(e)
	p.tidy()
	return nil
}
