package fakedns

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// peer skips a test for want of a program, unless ARGYLE_PEERS=require.
func peer(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, err)
	}
	return path
}

func missing(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("ARGYLE_PEERS") == "require" {
		t.Fatalf("%v, and ARGYLE_PEERS=require", err)
	}
	t.Skip(err)
}

func TestDig(t *testing.T) {
	dig := peer(t, "dig")
	s := server(t)
	s.Exchange = func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		reply := new(dns.Msg).SetReply(q)
		for range 40 {
			rr, err := dns.NewRR(q.Question[0].Name + " 60 IN TXT " + strings.Repeat("long", 30))
			if err != nil {
				return nil, err
			}
			reply.Answer = append(reply.Answer, rr)
		}
		return reply, nil
	}
	host, port, err := net.SplitHostPort(listen(t, s, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	pooled := addrs(t, s.Pool, ann, "www.example")
	for _, test := range []struct{ args, want string }{
		{"+short A www.example", pooled[0].String() + "\n"},
		{"+short AAAA wWw.example", pooled[1].String() + "\n"},
		{"+short +tcp A www.example", pooled[0].String() + "\n"},
		{"+short +noedns +nocookie A www.example", pooled[0].String() + "\n"},
		{"+short -x " + pooled[0].String(), "www.example.\n"},
		{"+short -x " + pooled[1].String(), "www.example.\n"},
		{"+short ANY www.example", "\"RFC8482\" \"\"\n"},
		{"A www.example", "status: NOERROR"},
		{"A a.invalid", "status: NXDOMAIN"},
		{"-c CH TXT version.bind", "status: REFUSED"},
		{"+ednsflags=0x8000 +edns=5 +noednsneg A www.example", "status: BADVERS"},
		{"+opcode=status +noedns A www.example", "status: NOTIMP"},
		{"TXT www.example", "ANSWER: 40"}, // truncated, and asked again over TCP
		{"+ignore TXT www.example", "flags: qr tc rd"},
	} {
		args := append([]string{"@" + host, "-p", port, "+tries=1", "+timeout=10"}, strings.Fields(test.args)...)
		out, err := exec.CommandContext(t.Context(), dig, args...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), test.want) || strings.Contains(test.args, "+short") && string(out) != test.want {
			t.Errorf("dig %s: %v, want %q:\n%s", test.args, err, test.want, out)
		}
		for _, complaint := range []string{"WARNING", "malformed", "mismatch", "unexpected"} {
			if strings.Contains(string(out), complaint) {
				t.Errorf("dig %s complains:\n%s", test.args, out)
			}
		}
	}
}
