package policy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// A Rule says what happens to the requests that it matches. Every condition
// that is set must hold; the values of one condition are alternatives. A rule
// without conditions matches every connect, bind and udp.
type Rule struct {
	Name string // what logs call it; may be empty
	At   string // where it is written, as "argyle.yaml:12"; may be empty

	// Clients and ClientSets are one condition: the networks that clients
	// are in, and sets of which only the networks count. A client on a unix
	// socket is in none.
	Clients    []netip.Prefix
	ClientSets []string

	Inbounds []string      // names of listeners
	Users    []string      // "*" is anybody who has authenticated, "*@REALM" one of the realm, by AuthGSSAPI
	Groups   []string      // keys of Policy.Groups
	Auth     []argyle.Auth // how the client is known; "" is not at all
	Commands []Command     // none: connect, bind and udp

	// Dests are destinations:
	//
	//	example.com      this name
	//	.example.com     this name and every name below it
	//	*.cdn-?.example  a glob over the whole name: ? is one character, * any
	//	                 number of them, dots included
	//	192.0.2.0/24     a network; a single address is one, too
	//	set:NAME         what is in Policy.Sets
	//	*                everything, addresses included
	//
	// Names are compared without case and without a final dot, those in
	// UTF-8 by their A-labels. A name matches no network before it has been
	// looked up (see [Policy.Route]), and an address no name.
	Dests []string

	Ports []Ports // of the destination

	// Days and Times are in local time; a Span over midnight belongs to the
	// day on which it begins.
	Days  []time.Weekday
	Times []Span

	Deny bool   // refuse what matches
	Via  string // the way out, of Policy.Ways

	// Private lets clients from other hosts reach private addresses (see
	// [Private]). So does an entry of Dests that is a wholly private
	// network, for its addresses.
	Private bool

	Limits   []proxy.Limit
	Timeouts proxy.Timeouts
	Level    slog.Level // of the lines in the log
	Quiet    bool       // no line in the log
}

// A Command is what a rule may be about: what clients ask for, and what comes
// back to them.
type Command string

// The commands. The replies are asked about with the peer as destination: who
// connects to a BIND, and who sends datagrams to a client.
const (
	Connect   Command = "connect"
	Bind      Command = "bind"
	UDP       Command = "udp"
	BindReply Command = "bind-reply"
	UDPReply  Command = "udp-reply"
)

// commands are all commands; requested is how many of them clients ask for.
var commands = []Command{Connect, Bind, UDP, BindReply, UDPReply}

const requested = 3

// number is the place of a command in commands; -1 if it is none.
func (c Command) number() int { return slices.Index(commands, c) }

// commandOf returns the command of a request.
func commandOf(c argyle.Command) Command { return Command(c.String()) }

// Ports is a range of ports, both ends included.
type Ports struct{ First, Last uint16 }

// A Span is a time of day in minutes since midnight, from From to before To. One
// whose To is less than its From ends on the next day.
type Span struct{ From, To int }

const day = 24 * 60

// A RuleError is a mistake in one rule.
type RuleError struct {
	Rule  int // index in Policy.Rules
	Err   error
	label string
}

func (e *RuleError) Error() string { return e.label + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *RuleError) Unwrap() error { return e.Err }

// label is what a rule is called: by its name, its place, or its number.
func (r *Rule) label(number int) string {
	switch {
	case r.Name != "" && r.At != "":
		return fmt.Sprintf("rule %q (%s)", r.Name, r.At)
	case r.Name != "":
		return fmt.Sprintf("rule %q", r.Name)
	case r.At != "":
		return "rule at " + r.At
	}
	return fmt.Sprintf("rule %d", number+1)
}

// reason is what a log says when the rule, so called, has decided.
func (r *Rule) reason(label string) string {
	switch {
	case r.Deny:
		return label + " denies"
	case r.Via != "":
		return label + " sends it via " + r.Via
	}
	return label + " allows"
}

// check finds the mistakes in a rule, but for those in Dests.
func (r *Rule) check(p *Policy) (errs []error) {
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, n := range r.Clients {
		if !n.IsValid() {
			wrong("a client network is not valid")
		}
	}
	for _, name := range r.ClientSets {
		if p.Sets[name] == nil {
			wrong("there is no set %q", name)
		}
	}
	for _, name := range r.Groups {
		if _, ok := p.Groups[name]; !ok {
			wrong("there is no group %q", name)
		}
	}
	for _, c := range r.Commands {
		if c.number() < 0 {
			wrong("there is no command %q", c)
		}
	}
	for _, ports := range r.Ports {
		if ports.First > ports.Last {
			wrong("ports %d-%d are the wrong way round", ports.First, ports.Last)
		}
	}
	errs = append(errs, r.checkTimes()...)
	_, known := p.Ways[r.Via]
	switch {
	case r.Deny && r.Via != "":
		wrong("a rule that denies has no way out")
	case !known:
		wrong("there is no way out %q", r.Via)
	}
	return errs
}

func (r *Rule) checkTimes() (errs []error) {
	for _, d := range r.Days {
		if d < time.Sunday || d > time.Saturday {
			errs = append(errs, fmt.Errorf("there is no weekday %d", int(d)))
		}
	}
	for _, s := range r.Times {
		switch {
		case s.From < 0 || s.From >= day || s.To < 0 || s.To > day:
			errs = append(errs, errors.New("a time is not within a day"))
		case s.From == s.To:
			errs = append(errs, errors.New("a time ends where it begins"))
		}
	}
	return errs
}

// minutes calls add with the spans of a week in which the rule holds, in
// minutes since the beginning of Sunday, both ends included.
func (r *Rule) minutes(add func(first, last int)) {
	days, times := r.Days, r.Times
	if len(days) == 0 {
		days = []time.Weekday{0, 1, 2, 3, 4, 5, 6}
	}
	if len(times) == 0 {
		times = []Span{{0, day}}
	}
	for _, d := range days {
		today, tomorrow := int(d)*day, (int(d)+1)%7*day
		for _, s := range times {
			if s.From < s.To {
				add(today+s.From, today+s.To-1)
				continue
			}
			add(today+s.From, today+day-1)
			if s.To > 0 {
				add(tomorrow, tomorrow+s.To-1)
			}
		}
	}
}

// minuteOf is a time as minutes counts.
func minuteOf(t time.Time) int {
	return int(t.Weekday())*day + t.Hour()*60 + t.Minute()
}

// commandList returns the commands that the rule is about.
func (r *Rule) commandList() []Command {
	if len(r.Commands) == 0 {
		return commands[:requested]
	}
	return r.Commands
}
