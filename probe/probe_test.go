package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kinds are the servers whose row is asked of.
func kindOf(id string) *faulty {
	switch {
	case strings.HasPrefix(id, "AUTH-"):
		return &faulty{fault: id, user: "ann", password: "secret"}
	case strings.HasPrefix(id, "GSS-"):
		return &faulty{fault: id, gss: true}
	}
	return &faulty{fault: id}
}

// rowOf probes a server for one row.
func rowOf(t *testing.T, f *faulty, id string) Row {
	p := &Prober{Addr: startFaulty(t, f), User: f.user, Password: f.password, Only: []string{id}, Trace: true}
	report, err := p.Run(t.Context())
	if err != nil {
		t.Error(err)
		return Row{}
	}
	return report.Rows[0]
}

// TestRows shows of every row that a server passes it that does all right, and
// that one with that fault does not.
func TestRows(t *testing.T) {
	slots := make(chan struct{}, 12) // most of them wait
	var wg sync.WaitGroup
	for _, c := range checks() {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			right := kindOf(c.id)
			right.fault = ""
			good, bad := rowOf(t, right, c.id), rowOf(t, kindOf(c.id), c.id)
			if good.Status != Pass {
				t.Errorf("%s: right, but %s: %s", c.id, good.Status, good.Detail)
			}
			switch {
			case bad.Status == Fail && bad.Detail != "":
			case c.level == Told && bad.Detail != good.Detail:
			case c.level == May && bad.Status == Unsupported:
			default:
				t.Errorf("%s: wrong, but %s: %s", c.id, bad.Status, bad.Detail)
			}
			if len(bad.Trace) == 0 && c.id != "NEG-DEADLINE" {
				t.Errorf("%s: nothing is told of what was sent", c.id)
			}
		})
	}
	wg.Wait()
}

// TestNames says of every id that it is there once, and looks like one.
func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range checks() {
		if seen[c.id] || !regexp.MustCompile(`^[A-Z0-9]+-[A-Z0-9]+$`).MatchString(c.id) || c.title == "" || c.section == "" {
			t.Errorf("%+v", c)
		}
		seen[c.id] = true
	}
}

// TestServer has argyle's own server pass every row.
func TestServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := new(proxy.Proxy)
	s := &socks.Server{Handler: p}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	defer func() {
		s.Close()
		p.Close()
		<-done
	}()
	Test(t, ln)
}

// TestTest has a wrong server for Test.
func TestTest(t *testing.T) {
	f := &faulty{fault: "REQ-REFUSED"}
	startFaulty(t, f)
	var r recorder
	Test(&r, f.ln)
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "REQ-REFUSED") {
		t.Errorf("%q", r.errors)
	}
}

type recorder struct{ errors []string }

func (*recorder) Helper()             {}
func (*recorder) Logf(string, ...any) {}
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...) }

// TestHostile has servers that are none: the run ends in time.
func TestHostile(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"silent":  func(c net.Conn) { hang(c) },
		"closing": func(c net.Conn) {},
		"endless": func(c net.Conn) {
			for {
				if _, err := c.Write(bytes.Repeat([]byte{5}, 1<<16)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			f := &faulty{ln: ln}
			f.wg.Go(func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					f.wg.Go(func() {
						defer c.Close()
						if f.keep(c) {
							serve(c)
						}
					})
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			report, err := (&Prober{Addr: ln.Addr().String()}).Run(ctx)
			if err == nil && report.OK() {
				t.Errorf("nothing is wrong with it")
			}
			ln.Close()
			f.mu.Lock()
			for _, c := range f.ends {
				c.Close()
			}
			f.mu.Unlock()
			f.wg.Wait()
		})
	}
}

// TestHelper does nothing for strangers.
func TestHelper(t *testing.T) {
	h, err := ListenHelper("127.0.0.1", "")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	far, err := DialHelper(h.String())
	if err != nil {
		t.Fatal(err)
	}
	if text, err := far.ask(t.Context(), "peer"); err != nil || !strings.HasPrefix(text, "127.0.0.1:") {
		t.Errorf("%q, %v", text, err)
	}
	stranger := *far
	stranger.secret = "guess"
	for _, command := range []string{"peer", "dial 127.0.0.1:22", "send 100"} {
		if text, err := stranger.ask(t.Context(), command); err == nil || text != "" {
			t.Errorf("%s: %q, %v", command, text, err)
		}
	}
	for _, s := range []string{"", "x", "a@b", "@host:1", "a@host:port", "a@host:99999"} {
		if _, err := DialHelper(s); err == nil {
			t.Errorf("%q is a helper", s)
		}
	}
}

func TestOutput(t *testing.T) {
	report := &Report{
		Proxy: "gw:1080",
		Took:  time.Second,
		Rows: []Row{
			{ID: "A-ONE", Section: "RFC 1928 §3", Level: Must, Title: "does", Status: Pass, Detail: "well", Trace: []Sent{{"tcp >", "0501", 2}, {"tcp <", "05", 200}}},
			{ID: "B-TWO", Section: "T1", Level: Must, Title: "does | not", Status: Fail, Detail: "\x1b[31mred\x07"},
			{ID: "C-THREE", Section: "T2", Level: Robust, Title: "may", Status: Unsupported},
		},
		Figures: []Figure{{"connect", 1.5, "ms"}, {"throughput", 10829.6, "Mbit/s"}},
	}
	var text, colour, markdown bytes.Buffer
	if err := report.WriteText(&text, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ok    A-ONE", "FAIL  B-TWO", "?[31mred?", "none  C-THREE", "tcp > 05 01\n", "05 … 200 bytes", "connect: 1.5 ms\n", "throughput: 10830 Mbit/s\n", "1 right, 1 broken MUST"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("nothing of %q in\n%s", want, text.String())
		}
	}
	_ = report.WriteText(&colour, true)
	if !strings.Contains(colour.String(), "\x1b[31;1mFAIL\x1b[0m") || strings.Contains(text.String(), "\x1b") {
		t.Error("colours are wrong")
	}
	if err := WriteMarkdown(&markdown, report, report); err != nil || !strings.Contains(markdown.String(), `| B-TWO | MUST | does \| not (T1) | **no** (?\[31mred?) | **no** (?\[31mred?) |`) {
		t.Errorf("%v\n%s", err, markdown.String())
	}
	var again Report
	b, err := json.Marshal(report)
	if err == nil {
		err = json.Unmarshal(b, &again)
	}
	if err != nil || again.OK() || again.Rows[1].Detail != report.Rows[1].Detail {
		t.Errorf("%+v, %v", again, err)
	}
}
