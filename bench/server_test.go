//go:build linux

package main

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseServer(t *testing.T) {
	addr := netip.MustParseAddrPort("127.0.0.1:1080")
	tests := []struct {
		spec string
		want server
	}{
		{"a=127.0.0.1:1080,pid=7", server{name: "a", addr: addr, pids: []int{7}}},
		{"ssh -D=localhost:1080,pid=7,pid=8", server{name: "ssh -D", addr: addr, pids: []int{7, 8}}},
		{"a=127.0.0.1:1080,user=ann,password=a=b,pid=7",
			server{name: "a", addr: addr, user: "ann", password: "a=b", pids: []int{7}}},
	}
	for _, tt := range tests {
		got, err := parseServer(tt.spec)
		if err != nil {
			t.Errorf("%s: %v", tt.spec, err)
		} else if !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.spec, *got, tt.want)
		}
	}
}

func TestParseServerRefuses(t *testing.T) {
	tests := []struct{ spec, reason string }{
		{"127.0.0.1:1080", "not name=host:port"},
		{"=127.0.0.1:1080", "not name=host:port"},
		{"a=127.0.0.1", "missing port"},
		{"a=192.0.2.1:1080,pid=7", "not on loopback"},
		{"a=127.0.0.1:1080,pid=x", "no process id"},
		{"a=127.0.0.1:1080,colour=red", "unknown field"},
		{"a=127.0.0.1:1080,pid=7,user=" + strings.Repeat("u", 256), "longer than 255"},
	}
	for _, tt := range tests {
		if _, err := parseServer(tt.spec); err == nil || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("%s: %v, want %q", tt.spec, err, tt.reason)
		}
	}
}

// What is asked for a password is the twin of the server of its name: it has no rows where passwords are not the subject.
func TestTwins(t *testing.T) {
	opts, err := parseFlags([]string{
		"-server", "a=127.0.0.1:1080,pid=7", "-server", "a=127.0.0.1:1081,pid=8,user=u,password=p",
		"-server", "b=127.0.0.1:1082,pid=9,user=u,password=p",
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, false} {
		if got := opts.servers[i].twin; got != want {
			t.Errorf("server %d: twin %v, want %v", i, got, want)
		}
	}
}
