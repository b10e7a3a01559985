//go:build linux

package main

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
)

func TestSteps(t *testing.T) {
	proxy, dest := netip.MustParseAddrPort("127.0.0.1:1080"), netip.MustParseAddrPort("127.0.0.2:258")
	tests := []struct {
		name   string
		server server
		want   []string
	}{
		{"no proxy", server{}, nil},
		{"no password", server{addr: proxy}, []string{"050100", "05010001" + "7f000002" + "0102"}},
		{"password", server{addr: proxy, user: "ann", password: "pw"},
			[]string{"050102", "0103" + "616e6e" + "02" + "7077", "05010001" + "7f000002" + "0102"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			steps := tt.server.steps(commandConnect, dest)
			if len(steps) != len(tt.want) {
				t.Fatalf("%d steps, want %d", len(steps), len(tt.want))
			}
			for i, st := range steps {
				if got := hex.EncodeToString(st.send); got != tt.want[i] {
					t.Errorf("step %d sends %s, want %s", i, got, tt.want[i])
				}
			}
		})
	}
}

// A reply may arrive in any number of pieces: no prefix may look whole, or longer than the whole is.
func TestReplyLenOfPrefixes(t *testing.T) {
	tests := []struct {
		name     string
		reply    string
		replyLen func([]byte) (int, error)
	}{
		{"method", "0500", methodReplyLen},
		{"password", "0100", passwordReplyLen},
		{"IPv4", "05000001" + "7f000001" + "0438", requestReplyLen},
		{"name", "05000003" + "07" + "6578616d706c65" + "0438", requestReplyLen},
		{"IPv6", "05000004" + "00000000000000000000000000000001" + "0438", requestReplyLen},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reply, err := hex.DecodeString(tt.reply)
			if err != nil {
				t.Fatal(err)
			}
			for n := range reply {
				need, err := tt.replyLen(reply[:n])
				if err != nil || need <= n || need > len(reply) {
					t.Errorf("after %d of %d bytes: need %d, %v", n, len(reply), need, err)
				}
			}
			if need, err := tt.replyLen(reply); need != len(reply) || err != nil {
				t.Errorf("the whole reply: need %d, %v; want %d", need, err, len(reply))
			}
		})
	}
}

func TestReplyLenRefusals(t *testing.T) {
	if _, err := methodReplyLen([]byte{5, 0xff}); err == nil {
		t.Error("no acceptable method is no refusal")
	}
	if _, err := passwordReplyLen([]byte{1, 1}); err == nil {
		t.Error("a wrong password is no refusal")
	}
	if _, err := requestReplyLen([]byte{5, 7, 0, 1}); !errors.Is(err, replyUnsupported) {
		t.Errorf("reply 7 is %v", err)
	}
	if _, err := requestReplyLen([]byte{5, 0, 0, 9, 0}); err == nil {
		t.Error("an unknown address type is no refusal")
	}
}

func TestBoundAddr(t *testing.T) {
	proxy := netip.MustParseAddr("127.0.0.9")
	given, err := boundAddr([]byte{5, 0, 0, 1, 127, 0, 0, 1, 1, 2}, proxy)
	if want := netip.MustParseAddrPort("127.0.0.1:258"); given != want || err != nil {
		t.Errorf("got %v, %v; want %v", given, err, want)
	}
	unspecified, err := boundAddr([]byte{5, 0, 0, 1, 0, 0, 0, 0, 1, 2}, proxy)
	if want := netip.MustParseAddrPort("127.0.0.9:258"); unspecified != want || err != nil {
		t.Errorf("got %v, %v; want %v", unspecified, err, want)
	}
	if _, err := boundAddr(make([]byte, 22), proxy); err == nil {
		t.Error("no error without an IPv4 address")
	}
}
