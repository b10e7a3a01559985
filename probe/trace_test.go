package probe

import (
	"encoding/hex"
	"strings"
	"testing"
)

// A trace has no password, in whatever pieces it was sent.
func TestTraceHidesPassword(t *testing.T) {
	s := &session{environment: &environment{prober: &Prober{User: "ann", Password: "secret", Trace: true}}}
	s.trace("tcp >", []byte("\x01\x03ann\x06secret"))
	for _, piece := range strings.Split("\x01\x03ann\x06secret\x05\x01", "") {
		s.trace("tcp >", []byte(piece))
		s.trace("tcp <", []byte{1})
	}
	s.trace("tcp >", []byte(strings.Repeat("x", maxShown-3)+"secret"))
	var out []byte
	for _, sent := range s.shown() {
		if sent.Way == "tcp >" {
			b, err := hex.DecodeString(sent.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b...)
		}
	}
	if got := string(out); strings.Contains(got, "sec") || !strings.Contains(got, "ann") || strings.Count(got, "*") != 6+6+3 {
		t.Errorf("%q is shown", got)
	}
}
