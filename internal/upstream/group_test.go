package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks/wire"
)

// script is a member that does as it is told, and counts.
type script struct {
	argyle.StreamOnly
	name  string
	asked atomic.Int32
	act   atomic.Pointer[func(ctx context.Context) error]
}

func (s *script) String() string { return s.name }

func (s *script) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	s.asked.Add(1)
	if act := s.act.Load(); act != nil {
		if err := (*act)(ctx); err != nil {
			return nil, err
		}
	}
	near, far := net.Pipe()
	go func() { _, _ = io.Copy(far, far); far.Close() }()
	return near, nil
}

func (s *script) does(act func(context.Context) error) { s.act.Store(&act) }

// says makes every request fail with err.
func (s *script) says(err error) {
	if err == nil {
		s.act.Store(nil)
		return
	}
	s.does(func(context.Context) error { return through(err) })
}

// dead is what a proxy that is not there looks like.
var dead = error(&net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})

// silent lets the time run out, as a proxy that accepts and says nothing.
func silent(ctx context.Context) error {
	<-ctx.Done()
	return through(ctx.Err())
}

// scripted returns a group of scripted members.
func scripted(pick Pick, names ...string) (*Group, []*script) {
	g := &Group{Name: "g", Pick: pick}
	var scripts []*script
	for _, name := range names {
		s := &script{name: name}
		scripts = append(scripts, s)
		g.Members = append(g.Members, &Member{Dialer: s})
	}
	return g, scripts
}

// asked returns how often each was asked since the last time.
func asked(scripts []*script) string {
	var counts []string
	for _, s := range scripts {
		counts = append(counts, fmt.Sprint(s.asked.Swap(0)))
	}
	return strings.Join(counts, " ")
}

// request makes a request within a time, and ends what comes of it.
func request(t *testing.T, g argyle.Dialer, within time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	conn, err := g.DialContext(ctx, "tcp", "192.0.2.1:80")
	if err == nil {
		conn.Close()
	}
	return err
}

// What members say decides whether others are asked, what the client hears, and who is down.
func TestGroupVerdicts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		errs   []error // of the members; nil: it works
		asked  string
		want   error // that the outcome is
		isDown string
	}{
		{"first works", []error{nil, nil}, "1 0", nil, ""},
		{"first dead", []error{dead, nil}, "1 1", nil, "a"},
		{"two dead", []error{dead, dead, nil}, "1 1 1", nil, "ab"},
		{"refused is final", []error{wire.ConnectionRefused, nil}, "1 0", syscall.ECONNREFUSED, ""},
		{"unknown name is final", []error{wire.HostUnreachable, nil}, "1 0", wire.HostUnreachable, ""},
		{"not allowed goes on", []error{wire.NotAllowed, nil}, "1 1", nil, ""},
		{"unsupported goes on", []error{wire.CommandNotSupported, nil}, "1 1", nil, ""},
		{"network unreachable goes on", []error{wire.NetworkUnreachable, nil}, "1 1", nil, ""},
		{"timed out there goes on", []error{wire.TTLExpired, nil}, "1 1", nil, ""},
		{"general failure, and another works", []error{wire.GeneralFailure, nil}, "1 1", nil, "a"},
		{"general failure, and another knows", []error{wire.GeneralFailure, wire.ConnectionRefused}, "1 1", wire.ConnectionRefused, "a"},
		{"general failure everywhere", []error{wire.GeneralFailure, wire.GeneralFailure}, "1 1", wire.GeneralFailure, ""},
		{"general failure, and another forbids", []error{wire.GeneralFailure, wire.NotAllowed}, "1 1", wire.NotAllowed, ""},
		{"all dead", []error{dead, dead}, "1 1", syscall.ECONNREFUSED, "ab"},
		{"a verdict rather than a dead proxy", []error{dead, wire.NetworkUnreachable, dead}, "1 1 1", wire.NetworkUnreachable, "ac"},
		{"a verdict rather than a rule", []error{wire.NotAllowed, wire.NetworkUnreachable}, "1 1", wire.NetworkUnreachable, ""},
		{"a rule rather than want", []error{errors.ErrUnsupported, wire.NotAllowed}, "1 1", wire.NotAllowed, ""},
		{"want rather than a dead proxy", []error{dead, wire.CommandNotSupported}, "1 1", errors.ErrUnsupported, "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			names := []string{"a", "b", "c"}[:len(tt.errs)]
			g, scripts := scripted(Failover, names...)
			for i, err := range tt.errs {
				scripts[i].says(err)
			}
			err := request(t, g, time.Minute)
			if (err == nil) != (tt.want == nil) || !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "group g: ") {
				t.Errorf("%v does not name the group", err)
			}
			if got := asked(scripts); got != tt.asked {
				t.Errorf("asked %s, want %s", got, tt.asked)
			}
			down := ""
			for _, s := range g.Status() {
				if !s.Up {
					down += s.Name
					if s.Err == nil || s.Since.IsZero() || s.Retry.IsZero() {
						t.Errorf("status %+v", s)
					}
				}
				if s.Sessions != 0 {
					t.Errorf("%d sessions with %s", s.Sessions, s.Name)
				}
			}
			if down != tt.isDown {
				t.Errorf("down are %q, want %q", down, tt.isDown)
			}
		})
	}
	if err := request(t, &Group{Name: "none"}, time.Minute); err == nil || !strings.Contains(err.Error(), "group none: it has no members") {
		t.Error(err)
	}
}

// A member that is down is asked again after its time, by one request; it is the last resort meanwhile.
func TestGroupBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, scripts := scripted(Failover, "a", "b")
		a, b := scripts[0], scripts[1]
		a.says(dead)
		for range 5 {
			if err := request(t, g, time.Minute); err != nil {
				t.Error(err)
			}
		}
		if got := asked(scripts); got != "1 5" {
			t.Errorf("asked %s", got)
		}
		time.Sleep(time.Second)
		for range 5 {
			request(t, g, time.Minute)
		}
		if got := asked(scripts); got != "1 5" { // its trial
			t.Errorf("asked %s", got)
		}

		// The trial takes its time: the others do not wait for it.
		time.Sleep(2 * time.Second)
		a.does(func(context.Context) error { time.Sleep(time.Minute / 2); return nil })
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := request(t, g, 2*time.Minute); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if got := asked(scripts); got != "1 9" {
			t.Errorf("asked %s", got)
		}
		a.says(nil)
		request(t, g, time.Minute)
		if got := asked(scripts); got != "1 0" {
			t.Errorf("after it came back asked %s", got)
		}

		// Both down: they are tried nevertheless.
		a.says(dead)
		b.says(dead)
		request(t, g, time.Minute)
		b.says(nil)
		asked(scripts)
		if err := request(t, g, time.Minute); err != nil || !g.Status()[1].Up {
			t.Errorf("the last resort: %v, %+v", err, g.Status())
		}
	})
}

// A silent member has its share of the time once; then it is known.
func TestGroupSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, scripts := scripted(Failover, "a", "b", "c")
		scripts[0].does(silent)
		began := time.Now()
		if err := request(t, g, 12*time.Second); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("it cost %v", took)
		}
		began = time.Now()
		if err := request(t, g, 12*time.Second); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if got := asked(scripts); got != "1 2 0" {
			t.Errorf("asked %s", got)
		}

		// Where everybody is silent it is the destination.
		g, scripts = scripted(Failover, "a", "b", "c")
		for _, s := range scripts {
			s.does(silent)
		}
		began = time.Now()
		if err := request(t, g, 12*time.Second); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 12*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if got := asked(scripts); got != "1 1 1" {
			t.Errorf("asked %s", got)
		}
		for _, s := range g.Status() {
			if !s.Up {
				t.Errorf("%s is down for the silence of a destination", s.Name)
			}
		}

		// Without an end of its own a request has one nevertheless.
		g.Timeout = time.Second
		began = time.Now()
		if _, err := g.DialContext(t.Context(), "tcp", "192.0.2.1:80"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}

		// Who has no time learns nothing.
		g, scripts = scripted(Failover, "a", "b")
		scripts[0].does(func(ctx context.Context) error {
			<-ctx.Done()
			return through(&net.OpError{Op: "dial", Err: ctx.Err()})
		})
		if err := request(t, g, 200*time.Millisecond); err != nil || !g.Status()[0].Up {
			t.Errorf("%v, %+v", err, g.Status())
		}

		// And a client that leaves says nothing against anybody.
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Second, cancel)
		scripts[0].does(silent)
		asked(scripts)
		if _, err := g.DialContext(ctx, "tcp", "192.0.2.1:80"); !errors.Is(err, context.Canceled) || asked(scripts) != "1 0" || !g.Status()[0].Up {
			t.Errorf("%v, %+v", err, g.Status())
		}
	})
}

// Direct has no faults.
func TestGroupDirect(t *testing.T) {
	other := &script{name: "b"}
	g := &Group{Name: "g", Members: []*Member{{Dialer: &argyle.Direct{Check: nobody}}, {Dialer: other}}}
	if err := request(t, g, time.Minute); err != nil || other.asked.Load() != 1 || !g.Status()[0].Up {
		t.Errorf("%v, %+v", err, g.Status())
	}
}

// Groups are members of groups.
func TestGroupNested(t *testing.T) {
	inner, deads := scripted(Failover, "a", "b")
	deads[0].says(dead)
	deads[1].says(dead)
	last := &script{name: "c"}
	g := &Group{Name: "outer", Members: []*Member{{Dialer: inner}, {Dialer: last}}}
	for range 3 {
		if err := request(t, g, time.Minute); err != nil {
			t.Error(err)
		}
	}
	if asked(deads) != "1 1" || last.asked.Load() != 3 || g.Status()[0].Up {
		t.Errorf("%+v", g.Status())
	}
	last.says(wire.ConnectionRefused)
	if err := request(t, g, time.Minute); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
}

// requestOf returns a context with a request of a user at an address.
func requestOf(t *testing.T, user, client string) context.Context {
	addr, _ := netip.ParseAddrPort(client)
	return argyle.WithRequest(t.Context(), &argyle.Request{User: user, Client: addr})
}

// chosen returns the member that a request goes to.
func chosen(t *testing.T, g *Group, ctx context.Context, dest string) string {
	t.Helper()
	conn, err := g.DialContext(ctx, "tcp", dest)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return strings.TrimPrefix(conn.(interface{ Via() string }).Via(), "g/")
}

func TestPickRoundRobin(t *testing.T) {
	g, scripts := scripted(RoundRobin, "a", "b", "c")
	for range 9 {
		request(t, g, time.Minute)
	}
	if got := asked(scripts); got != "3 3 3" {
		t.Errorf("asked %s", got)
	}
	scripts[1].says(dead)
	for range 13 {
		request(t, g, time.Minute)
	}
	if got := asked(scripts); got != "7 1 6" && got != "6 1 7" { // the others share what it leaves
		t.Errorf("with one dead: %s", got)
	}
}

func TestPickRandom(t *testing.T) {
	g, scripts := scripted(Random, "a", "b", "c", "d")
	for range 4000 {
		request(t, g, time.Minute)
	}
	for _, s := range scripts {
		if n := s.asked.Load(); n < 800 || n > 1200 {
			t.Errorf("%s was asked %d times of 4000", s.name, n)
		}
	}
}

// The fewest sessions win, those that are being opened included, and all of them end.
func TestPickLeastSessions(t *testing.T) {
	g, scripts := scripted(LeastSessions, "a", "b", "c")
	var conns []net.Conn
	for range 30 {
		conn, err := g.DialContext(t.Context(), "tcp", "192.0.2.1:80")
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	if got := asked(scripts); got != "10 10 10" {
		t.Errorf("asked %s", got)
	}
	for _, conn := range conns {
		if strings.HasSuffix(conn.(interface{ Via() string }).Via(), "/b") {
			conn.Close()
			conn.Close() // counts once
		}
	}
	for range 10 {
		conn, _ := g.DialContext(t.Context(), "tcp", "192.0.2.1:80")
		conns = append(conns, conn)
	}
	if got := asked(scripts); got != "0 10 0" {
		t.Errorf("asked %s", got)
	}
	for _, conn := range conns {
		conn.Close()
	}
	for _, s := range g.Status() {
		if s.Sessions != 0 {
			t.Errorf("%d sessions are left with %s", s.Sessions, s.Name)
		}
	}
}

func TestPickLowestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, scripts := scripted(LowestLatency, "a", "b", "c")
		takes := func(i int, d time.Duration) {
			scripts[i].does(func(context.Context) error { time.Sleep(d); return nil })
		}
		takes(0, 300*time.Millisecond)
		takes(1, 100*time.Millisecond)
		takes(2, 200*time.Millisecond)
		for range 23 {
			request(t, g, time.Minute)
		}
		if got := asked(scripts); got != "1 21 1" {
			t.Errorf("asked %s", got)
		}
		if s := g.Status()[1]; s.Latency != 100*time.Millisecond {
			t.Errorf("status %+v", s)
		}
		takes(1, time.Second) // it gets worse
		for range 10 {
			request(t, g, time.Minute)
		}
		if got := asked(scripts); got != "0 1 9" {
			t.Errorf("asked %s", got)
		}
		time.Sleep(freshness + time.Second) // what is known gets old
		for range 10 {
			request(t, g, time.Minute)
		}
		if got := asked(scripts); got != "1 1 8" {
			t.Errorf("asked %s", got)
		}
	})
}

// Users keep their member; when one dies only its users move, and they come back.
func TestPickSticky(t *testing.T) {
	const users = 3000
	g, scripts := scripted(StickyUser, "a", "b", "c", "d", "e")
	places := func() map[int]string {
		at := make(map[int]string)
		for user := range users {
			at[user] = chosen(t, g, requestOf(t, fmt.Sprint("user", user), "192.0.2.1:1"), "192.0.2.1:80")
		}
		return at
	}
	before := places()
	counts := make(map[string]int)
	for _, name := range before {
		counts[name]++
	}
	for name, n := range counts {
		if math.Abs(float64(n)-users/5) > users/5*0.15 {
			t.Errorf("%s has %d of %d users", name, n, users)
		}
	}
	scripts[2].says(dead)
	moved := make(map[string]int)
	for user, name := range places() {
		switch {
		case before[user] == "c" && name != "c":
			moved[name]++
		case before[user] != name:
			t.Fatalf("user %d moved from %s to %s", user, before[user], name)
		}
	}
	for name, n := range moved {
		if math.Abs(float64(n)-float64(counts["c"])/4) > float64(counts["c"])/4*0.35 {
			t.Errorf("%s inherits %d of %d users", name, n, counts["c"])
		}
	}
	scripts[2].says(nil)
	g.Members[2].record().health.succeed()
	for user, name := range places() {
		if before[user] != name {
			t.Fatalf("user %d did not come back to %s", user, before[user])
		}
	}
}

// Whose request it is, and where to.
func TestStickyKeys(t *testing.T) {
	g, _ := scripted(StickyUser, "a", "b", "c", "d", "e", "f", "g", "h")
	differ := 0
	for i := range 100 {
		at := func(user, client string) string { return chosen(t, g, requestOf(t, user, client), "192.0.2.1:80") }
		v4, v6 := fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("2001:db8:0:%x", i)
		if at("", v4+":1") != at("", v4+":2") || at("", v4+":1") != at("", "[::ffff:"+v4+"]:1") {
			t.Errorf("%s has two members", v4)
		}
		if at("", "["+v6+"::1]:1") != at("", "["+v6+":ffff::2]:9") {
			t.Errorf("%s::/64 has two members", v6)
		}
		if at("ann", v4+":1") != at("ann", "["+v6+"::1]:1") {
			t.Error("ann has two members")
		}
		if at("", v4+":1") != at("", "192.0.2.200:1") {
			differ++
		}
	}
	if differ < 70 {
		t.Errorf("only %d of 100 clients differ from another", differ)
	}
	g.Pick = StickyHost
	for i := range 100 {
		host := fmt.Sprintf("host%d.example", i)
		first := chosen(t, g, requestOf(t, "ann", "192.0.2.1:1"), host+":80")
		for _, other := range []string{host + ":443", strings.ToUpper(host) + ":80", host + ".:80"} {
			if got := chosen(t, g, requestOf(t, "bob", "192.0.2.2:1"), other); got != first {
				t.Errorf("%s goes to %s, %s:80 to %s", other, got, host, first)
			}
		}
	}
	if userKey(t.Context()) != "" || hostKey(t.Context(), "") != "" {
		t.Error("a request of nobody has a key")
	}
}

// A reload keeps what is known of those that stay.
func TestGroupInherit(t *testing.T) {
	old, scripts := scripted(LeastSessions, "a", "b", "c")
	scripts[0].says(dead)
	var conns []net.Conn
	for range 4 {
		conn, err := old.DialContext(t.Context(), "tcp", "192.0.2.1:80")
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	g, fresh := scripted(LeastSessions, "d", "b", "a")
	g.Members[1].Name, old.Members[1].Name = "named", "named"
	g.Inherit(old)
	status := g.Status()
	if !status[0].Up || status[0].Sessions != 0 || status[1].Sessions != 2 || status[2].Up || status[2].Err == nil {
		t.Errorf("%+v", status)
	}
	if request(t, g, time.Minute) != nil || asked(fresh) != "1 0 0" {
		t.Error("it has forgotten")
	}
	for _, conn := range conns {
		conn.Close()
	}
	if g.Status()[1].Sessions != 0 {
		t.Errorf("%+v", g.Status())
	}
	changed, _ := scripted(Failover, "x")
	changed.Members[0].Name = "named" // another way out by the same name
	changed.Inherit(old)
	if changed.Members[0].record() == old.Members[1].record() {
		t.Error("inherited from another way out")
	}
}

// The log tells of members that go down and up, once, and shows no password.
func TestGroupLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, scripts := scripted(Failover, "a", "b")
		var text strings.Builder
		g.Log = slog.New(slog.NewTextHandler(&text, nil))
		scripts[0].says(dead)
		for range 3 {
			request(t, g, time.Minute)
		}
		scripts[0].says(nil)
		time.Sleep(time.Second)
		for range 3 {
			request(t, g, time.Minute)
		}
		lines := strings.Split(strings.TrimSpace(text.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], `level=WARN msg="upstream is down" group=g upstream=a err=`) ||
			!strings.Contains(lines[1], `level=INFO msg="upstream is up" group=g upstream=a`) {
			t.Errorf("%s", text.String())
		}
	})
}

// A group's connections are the members' to those who look.
func TestGroupConn(t *testing.T) {
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	s := startServer(t, listen(t), false)
	way, err := Chain([]string{s.addr})
	if err != nil {
		t.Fatal(err)
	}
	var g argyle.Dialer = &Group{Name: "g", Members: []*Member{{Name: "near", Dialer: way}}}
	conn, err := g.DialContext(t.Context(), "tcp", dest)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	inner, unread := conn.(interface{ Unwrap() (net.Conn, []byte) }).Unwrap()
	if _, tcp := inner.(*net.TCPConn); !tcp || len(unread) != 0 {
		t.Errorf("inside is a %T with %q: the kernel cannot splice", inner, unread)
	}
	if via := conn.(interface{ Via() string }).Via(); via != "g/near" {
		t.Errorf("via %s", via)
	}
	pingPong(t, conn)
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(conn); len(b) > 0 || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if fmt.Sprint(g) != "g" || map[argyle.Dialer]bool{g: true}[g] != true {
		t.Error("no name, or not comparable")
	}
}
