package config

import "testing"

func TestWords(t *testing.T) {
	testWords[Auth](t, "want none, password, certificate, gssapi or uid")
	testWords[Command](t, "want connect, bind, udp, bind-reply or udp-reply")
	testWords[ChainMode](t, "want strict, dynamic or random")
	testWords[Pick](t, "want failover, round-robin, random, least-sessions, lowest-latency, sticky-user or sticky-destination")
	testWords[SourcePick](t, "want random, turn, user or destination")
	testWords[Prefer](t, "want ipv4, ipv6, ipv4-only or ipv6-only")
	testWords[Action](t, "want allow or deny")
	testWords[LogLevel](t, "want off, debug, info, warn or error")
	testWords[ReloadSessions](t, "want keep or end-refused")
}

func testWords[T choice](t *testing.T, want string) {
	t.Helper()
	var zero T
	for _, word := range zero.shape().words {
		if got, err := read[T](word); err != nil || string(got) != word {
			t.Errorf("%T %q = %q, %v", zero, word, got, err)
		}
	}
	for _, wrong := range []string{"", "x", "None", zero.shape().words[0] + " "} {
		if got, err := read[T](wrong); err == nil || err.Error() != want || got != "" {
			t.Errorf("%T %q = %q, %v; want %q", zero, wrong, got, err, want)
		}
	}
}
