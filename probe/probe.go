// Package probe says what a SOCKS proxy can do, and what it gets wrong: it
// speaks with the proxy as clients do, good ones and bad ones, and compares
// what comes back with RFC 1928, RFC 1929, RFC 1961, the memos of SOCKS 4 and
// 4a, and the traps that proxies fall into.
//
// What the proxy connects to is a [Helper], which belongs to the prober and
// does nothing for others. Nothing else is connected to, a run is bounded, and
// it is safe to probe somebody else's proxy, as far as one may use it.
//
//	report, err := (&probe.Prober{Addr: "gw.example:1080"}).Run(ctx)
package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Prober probes one proxy.
type Prober struct {
	// Addr is the proxy's "host:port".
	Addr string

	// User and Password are those of an account, if the proxy wants one.
	User, Password string

	// Dial connects to the proxy; nil is TCP to Addr. UDP goes to the relay
	// that the proxy names, without it.
	Dial func(ctx context.Context) (net.Conn, error)

	// Helper is what the proxy connects to; nil is one on this host, which
	// the proxy must be able to reach.
	Helper *Helper

	// Only are the rows to be run, by their id or the beginning of it, as
	// UDP; nil runs all.
	Only []string

	// Trace keeps what was sent and what came back.
	Trace bool
}

// Level says how much a row matters.
type Level string

// The levels. What is robust is no matter of the RFCs, but of experience; what
// is only told is neither right nor wrong.
const (
	Must   Level = "MUST"
	Should Level = "SHOULD"
	May    Level = "MAY"
	Robust Level = "robust"
	Told   Level = "told"
)

// Status is what became of a row.
type Status string

// The states. A proxy without a command, a version or a method does not fail
// the rows that are about it.
const (
	Pass        Status = "pass"
	Fail        Status = "fail"
	Unsupported Status = "unsupported"
	Skipped     Status = "skipped"
)

// A Row is one thing that was looked at.
type Row struct {
	ID      string `json:"id"`
	Section string `json:"section"` // of an RFC, or the number of a trap
	Level   Level  `json:"level"`
	Title   string `json:"title"`
	Status  Status `json:"status"`
	Detail  string `json:"detail,omitempty"`
	Trace   []Sent `json:"trace,omitempty"`
}

// Sent is something that was sent or received.
type Sent struct {
	Way   string `json:"way"`   // "tcp >", "tcp <", "udp >", "udp <"
	Bytes string `json:"bytes"` // in hexadecimal, cut after 64
	Len   int    `json:"len"`
}

// A Figure is something that was measured.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// A Report is what a run has found.
type Report struct {
	Proxy   string        `json:"proxy"`
	When    time.Time     `json:"when"`
	Took    time.Duration `json:"took"`
	Rows    []Row         `json:"rows"`
	Figures []Figure      `json:"figures,omitempty"`
}

// OK reports whether no MUST was broken.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Rows, func(row Row) bool { return row.Level == Must && row.Status == Fail })
}

// check is a row to be run.
type check struct {
	id, section string
	level       Level
	title       string
	run         func(ctx context.Context, s *session) error
	time        time.Duration // that it may take; 0 is rowTime
}

const (
	rowTime  = 6 * time.Second
	runTime  = time.Minute // of all rows: those of a proxy that does not answer would take two
	parallel = 4           // rows at a time
)

// checks are all rows, in the order of the report.
func checks() (all []check) {
	for _, part := range [][]check{negotiation(), requests(), socks4(), relaying(), binding(), datagrams()} {
		all = append(all, part...)
	}
	return all
}

// verdict ends a row other than well.
type verdict struct {
	status Status
	text   string
}

func (v *verdict) Error() string { return v.text }

func failed(format string, args ...any) error { return &verdict{Fail, fmt.Sprintf(format, args...)} }
func unsupported(format string, args ...any) error {
	return &verdict{Unsupported, fmt.Sprintf(format, args...)}
}
func skipped(format string, args ...any) error {
	return &verdict{Skipped, fmt.Sprintf(format, args...)}
}

// Check returns an error if Only has what is no row.
func (p *Prober) Check() error {
	_, err := p.selected()
	return err
}

// Run probes the proxy. An error means that nothing could be found out; what is
// wrong with the proxy is in the report.
func (p *Prober) Run(ctx context.Context) (*Report, error) {
	began := time.Now()
	suite, err := p.selected()
	if err != nil {
		return nil, err
	}
	conn, err := p.reach(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach the proxy: %w", err)
	}
	local := conn.LocalAddr()
	remote := conn.RemoteAddr()
	conn.Close()
	helper := p.Helper
	if helper == nil {
		if helper, err = ListenHelper(hostOf(local), ""); err != nil {
			return nil, fmt.Errorf("helper: %w", err)
		}
		defer helper.Close()
	}
	env := &environment{prober: p, helper: helper, proxy: remote, local: hostOf(local)}
	report := &Report{Proxy: p.Addr, When: began, Rows: make([]Row, len(suite))}
	asked := ctx
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i, c := range suite {
		report.Rows[i] = Row{ID: c.id, Section: c.section, Level: c.level, Title: c.title}
		if c.time == 0 {
			slots <- struct{}{}
		}
		wg.Go(func() {
			if ctx.Err() == nil {
				env.row(ctx, c, &report.Rows[i])
			} else {
				report.Rows[i].Status, report.Rows[i].Detail = Skipped, "there was no time left: the proxy is slow to answer"
			}
			if c.time == 0 {
				<-slots
			}
		})
	}
	wg.Wait()
	if len(p.Only) == 0 && ctx.Err() == nil {
		report.Figures = env.measure(ctx)
	}
	report.Took = time.Since(began)
	return report, asked.Err()
}

// reach connects to the proxy for the first time, within the time for a row.
func (p *Prober) reach(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, rowTime)
	defer cancel()
	return p.dial(ctx)
}

// selected returns the rows to be run.
func (p *Prober) selected() ([]check, error) {
	all := checks()
	if len(p.Only) == 0 {
		return all, nil
	}
	var some []check
	for _, id := range p.Only {
		before := len(some)
		for _, c := range all {
			if c.id == id || strings.HasPrefix(c.id, id+"-") {
				some = append(some, c)
			}
		}
		if len(some) == before {
			return nil, fmt.Errorf("no row %q", id)
		}
	}
	return some, nil
}

func (p *Prober) dial(ctx context.Context) (net.Conn, error) {
	if p.Dial != nil {
		return p.Dial(ctx)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", p.Addr)
}

// row runs one row.
func (e *environment) row(ctx context.Context, c check, row *Row) {
	limit := c.time
	if limit == 0 {
		limit = rowTime
	}
	s := &session{environment: e, deadline: time.Now().Add(limit)}
	defer s.close()
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := c.run(ctx, s)
	row.Detail = s.said()
	var v *verdict
	switch {
	case err == nil:
		row.Status = Pass
	case errors.As(err, &v):
		row.Status, row.Detail = v.status, v.text
	default:
		row.Status, row.Detail = Fail, plain(err)
	}
	if e.prober.Trace {
		row.Trace = s.shown()
	}
}

// T is what [Test] needs of a testing.TB.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Test probes the proxy that accepts connections from ln, in a test: a row that
// fails is an error of the test if it is a MUST, else it is only logged.
func Test(t T, ln net.Listener) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	report, err := (&Prober{Addr: ln.Addr().String()}).Run(ctx)
	if err != nil {
		t.Fatalf("probe: %v", err)
		return
	}
	for _, row := range report.Rows {
		switch {
		case row.Status == Fail && row.Level == Must:
			t.Errorf("%s (%s): %s: %s", row.ID, row.Section, row.Title, row.Detail)
		case row.Status == Fail:
			t.Logf("%s (%s, %s): %s: %s", row.ID, row.Section, row.Level, row.Title, row.Detail)
		}
	}
}
