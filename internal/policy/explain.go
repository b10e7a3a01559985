package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// An Explanation is what Route would do with a request, and why.
type Explanation struct {
	Request  *argyle.Request
	Decision Decision // about the request
	ByName   Decision // before any look-up
	LookedUp bool     // the rules depended on the addresses
	Answers  []Answer // of that look-up, or of the one that the way out will make

	Rule string // what logs call the rule that decides; "" if there is none
	At   string // where it is written

	// What follows is set if the Decision allows.
	Route    proxy.Route
	Resolves bool // the way looks names up, and each address is checked
}

// Explain returns what Route would do with a request, and what Check would say
// where the way out looks the name up. An error is that of the look-up; the
// Explanation then says as much as is known.
func (p *Policy) Explain(ctx context.Context, req *argyle.Request) (*Explanation, error) {
	t, err := p.decideAll(ctx, req, p.lookUp)
	e := &Explanation{Request: req, Decision: t.final, ByName: t.byName, LookedUp: t.lookedUp, Answers: t.answers}
	if err == nil && t.final.Allowed {
		e.Route = p.route(req, &t)
		e.Resolves = p.Ways[t.final.Via].Resolves
		err = p.preview(ctx, e)
	}
	if t.final.Rule >= 0 && t.final.Kind != "" {
		rule := p.engine.rules[t.final.Rule]
		e.Rule, e.At = rule.label, rule.At
	}
	return e, err
}

// preview looks up what the way out will look up, and decides as Check will.
func (p *Policy) preview(ctx context.Context, e *Explanation) error {
	if e.LookedUp || !e.Resolves || e.Request.Dest.Name == "" {
		return nil
	}
	ips, err := p.lookUp(ctx, e.Request.Dest.Name)
	for _, ip := range ips {
		d := p.decideBy(e.Decision.Via, e.Request, netip.AddrPortFrom(ip, e.Request.Dest.Port))
		e.Answers = append(e.Answers, Answer{ip, d})
	}
	return err
}

// String returns the explanation as lines of text.
func (e *Explanation) String() string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s%s\n", key, fmt.Sprintf(format, args...))
	}
	line("request", "%s", describe(e.Request))
	if e.LookedUp {
		line("look-up", "%s", e.ByName.Reason)
		e.writeAnswers(line)
	}
	if e.Decision.Kind == "" || e.Decision.Kind == Undecided {
		return b.String()
	}
	line("decision", "%s: %s", verdict(e.Decision), e.Decision.Reason)
	if !e.Decision.Allowed {
		return b.String()
	}
	line("way", "%s", e.way())
	if !e.LookedUp {
		e.writeAnswers(line)
	}
	e.writeTerms(line)
	return b.String()
}

func (e *Explanation) writeAnswers(line func(key, format string, args ...any)) {
	for _, a := range e.Answers {
		line("address", "%v %s: %s", a.IP, verdict(a.Decision), a.Reason)
	}
}

func describe(req *argyle.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v", req.Command)
	if !req.Dest.IsZero() {
		fmt.Fprintf(&b, " %v", req.Dest)
	}
	if req.Client.IsValid() {
		fmt.Fprintf(&b, " from %v", req.Client.Addr())
	} else {
		b.WriteString(" from a unix socket")
	}
	if req.User != "" {
		fmt.Fprintf(&b, ", user %s", req.User)
	}
	if req.Auth != argyle.AuthNone {
		fmt.Fprintf(&b, " (%s)", req.Auth)
	}
	if req.Inbound != "" {
		fmt.Fprintf(&b, ", listener %s", req.Inbound)
	}
	return b.String()
}

func verdict(d Decision) string {
	if d.Allowed {
		return "allowed"
	}
	return "refused"
}

// way says how the request goes out.
func (e *Explanation) way() string {
	text := fmt.Sprintf("%T", e.Route.Dialer)
	if named, ok := e.Route.Dialer.(fmt.Stringer); ok {
		text = named.String()
	}
	if e.Decision.Via != "" && e.Decision.Via != text {
		text = e.Decision.Via + " (" + text + ")"
	}
	switch {
	case !e.Route.Dest.IsZero():
		return text + " to " + e.Route.Dest.String()
	case e.Request.Dest.Name != "" && e.Resolves:
		return text + ", which looks the name up and has each address checked"
	case e.Request.Dest.Name != "":
		return text + ", which looks the name up"
	}
	return text
}

// writeTerms writes what the session counts against and how long it may last.
func (e *Explanation) writeTerms(line func(key, format string, args ...any)) {
	for _, l := range e.Route.Limits {
		if named, ok := l.(fmt.Stringer); ok {
			line("limit", "%s", named)
		} else {
			line("limit", "%T", l)
		}
	}
	t := e.Route.Timeouts
	for _, bound := range []struct {
		what string
		time time.Duration
	}{{"dial", t.DialTimeout}, {"bind", t.BindTimeout}, {"idle", t.Idle}, {"udp-idle", t.UDPIdle}, {"session", t.MaxTime}} {
		switch {
		case bound.time < 0:
			line("timeout", "%s off", bound.what)
		case bound.time > 0:
			line("timeout", "%s %v", bound.what, bound.time)
		}
	}
	if e.Route.Quiet {
		line("log", "off")
	} else if e.Route.Level != 0 {
		line("log", "%v", e.Route.Level)
	}
}

// errNoAnswer is why a Trial looks nothing up.
var errNoAnswer = errors.New("nothing says what the name means")

// Trial decides about a request as at another time (the zero time is now), and
// as if the look-up of its name gave the addresses in resolves. It looks nothing
// up. With addresses, it goes on to what Check would say of them where the way
// out looks names up.
func (p *Policy) Trial(req *argyle.Request, resolves []netip.Addr, at time.Time) Decision {
	p = p.At(at)
	t, err := p.decideAll(context.Background(), req, func(context.Context, string) ([]netip.Addr, error) {
		if len(resolves) == 0 {
			return nil, errNoAnswer
		}
		return resolves, nil
	})
	switch {
	case errors.Is(err, errNoAnswer):
		t.final.Reason += ", and " + err.Error()
		return t.final
	case err != nil:
		return Decision{Kind: NoMatch, Rule: -1, Reason: err.Error()}
	case !t.final.Allowed || req.Dest.Name == "" || !p.Ways[t.final.Via].Resolves:
		return t.final
	}
	var first Decision
	for i, ip := range resolves {
		d := p.decideBy(t.final.Via, req, netip.AddrPortFrom(ip, req.Dest.Port))
		if d.Allowed {
			return d
		}
		if i == 0 {
			first = d
		}
	}
	if len(resolves) > 0 {
		return first
	}
	return t.final
}

// Recheck says why a request would be refused now that was allowed before; nil
// if it would not. Nothing is looked up: peer is where its session leads, if
// the way out is direct, else nil. Where the address matters and is not known,
// Recheck lets the session be.
func (p *Policy) Recheck(req *argyle.Request, peer net.Addr) error {
	d := p.Decide(req, netip.Addr{})
	depends := d.Kind == Undecided || d.Allowed && req.Dest.Name != "" && p.Ways[d.Via].Resolves
	if !depends {
		return p.refusal(d)
	}
	// Of a session through a proxy the peer is that proxy, whose port is
	// hardly the destination's; of a BIND it is who came.
	addr := argyle.AddrOf(peer)
	if req.Command != argyle.Connect || !addr.IP.IsValid() || addr.Port != req.Dest.Port {
		return nil
	}
	return p.refusal(p.Decide(req, addr.IP))
}
