package socks

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks/wire"
)

// T25, and RFC 1928, section 7: the rules of reassembly, one by one.
func TestReassembly(t *testing.T) {
	type step struct {
		frag    wire.Frag
		payload string
		want    string // "…" for a fragment kept, "-" for one dropped
	}
	big := strings.Repeat("x", 40000)
	tests := map[string][]step{
		"in order":              {{1, "a", "…"}, {2, "b", "…"}, {0x83, "c", "abc"}},
		"alone":                 {{0, "a", "a"}, {0, "", ""}},
		"sequence of one":       {{0x81, "a", "a"}},
		"empty":                 {{1, "", "…"}, {0x82, "", ""}},
		"gap":                   {{1, "a", "…"}, {3, "c", "-"}, {0x84, "d", "-"}, {0x81, "e", "e"}},
		"begins in the middle":  {{2, "b", "-"}, {0x83, "c", "-"}},
		"lower one abandons":    {{1, "a", "…"}, {2, "b", "…"}, {1, "A", "…"}, {0x82, "B", "AB"}},
		"alone abandons":        {{1, "a", "…"}, {0, "x", "x"}, {0x82, "b", "-"}},
		"repetition is dropped": {{1, "a", "…"}, {1, "a", "-"}, {0x82, "b", "ab"}},
		"last without number":   {{0x80, "a", "-"}, {0, "b", "b"}},
		"longer than UDP":       {{1, big, "…"}, {2, big, "-"}, {0x83, "c", "-"}, {0x81, "d", "d"}},
		"highest number":        {{127, "a", "-"}, {0xff, "b", "-"}},
	}
	dest := argyle.Addr{Name: "host.example", Port: 1}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			var r reassembly
			defer r.reset()
			for i, s := range steps {
				payload, ok := r.add(wire.Header{Frag: s.frag, Addr: dest}, []byte(s.payload))
				got := string(payload)
				switch {
				case !ok:
					got = "-"
				case payload == nil:
					got = "…"
				}
				if got != s.want {
					t.Fatalf("step %d: %.20q, want %.20q", i, got, s.want)
				}
			}
		})
	}
}

func TestReassemblyDestinations(t *testing.T) {
	var r reassembly
	defer r.reset()
	r.add(wire.Header{Frag: 1, Addr: argyle.Addr{Name: "a", Port: 1}}, []byte("a"))
	if _, ok := r.add(wire.Header{Frag: 0x82, Addr: argyle.Addr{Name: "b", Port: 1}}, []byte("b")); ok {
		t.Error("fragments to two destinations were joined")
	}
}

// The timer is no less than 5 seconds, and gives the memory back.
func TestReassemblyTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r reassembly
		dest := argyle.Addr{Name: "host.example", Port: 1}
		r.add(wire.Header{Frag: 1, Addr: dest}, []byte("a"))
		time.Sleep(5*time.Second - time.Millisecond)
		if _, ok := r.add(wire.Header{Frag: 2, Addr: dest}, []byte("b")); !ok {
			t.Error("abandoned before 5 seconds")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if r.buf != nil || r.last != 0 {
			t.Error("kept after its time")
		}
		if _, ok := r.add(wire.Header{Frag: 0x83, Addr: dest}, []byte("c")); ok {
			t.Error("completed after its time")
		}
	})
}
