package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/argyle-socks/argyle/internal/krbtest"
	"github.com/argyle-socks/argyle/probe"
)

// conformanceFile is the variable with the path of docs/conformance.md.
const conformanceFile = "ARGYLE_CONFORMANCE"

// probed is a proxy to be probed: as it is for anybody, and the rows that need something else.
type probed struct {
	name  string
	addr  string
	extra map[string]*probe.Prober // by the beginning of rows' ids

	// What is known of it.
	fails, unsupported []string
}

// TestProbePeers finds in everybody's servers what is known of them, and nothing wrong with ours. With ARGYLE_CONFORMANCE
// it puts the table into that file.
func TestProbePeers(t *testing.T) {
	if !inNamespaceWith(t, nil, []string{conformanceFile + "=" + os.Getenv(conformanceFile)}) {
		return
	}
	box := startSSHD(t)
	danted(t, "1080", "none")
	startListening(t, box.client(t, "-N", "-D", "127.0.0.1:1082"))
	own, withAccount := startServer(t), startServer(t, "--users", usersFile(t))
	keytab := krbtest.Keytab(t, "rcmd/localhost@EXAMPLE.TEST")
	withKeytab := startServer(t, "-c", writeFile(t, "argyle.yaml", "auth: {gssapi: {keytab: "+keytab+"}}"))
	microsocks := peer(t, "microsocks")
	account := func(addr string) *probe.Prober {
		return &probe.Prober{Addr: addr, User: user, Password: password, Only: []string{"AUTH"}}
	}
	all := []*probed{
		{name: "argyle", addr: own.addr, extra: map[string]*probe.Prober{
			"AUTH-": account(withAccount.addr), "GSS-": {Addr: withKeytab.addr, Only: []string{"GSS"}},
		}},
		{name: "danted", addr: "127.0.0.1:1080", extra: map[string]*probe.Prober{},
			fails: []string{"V4-NAME", "UDP-SOURCE", "REQ-COMMAND", "BIND-STRANGER"}, unsupported: []string{"UDP-REASSEMBLY", "GSS-REFUSAL"}},
		{name: "microsocks", addr: startListening(t, command(t, microsocks, "-i", "127.0.0.1", "-p", "0")),
			extra: map[string]*probe.Prober{
				"AUTH-": account(startListening(t, command(t, microsocks, "-i", "127.0.0.1", "-p", "0", "-u", user, "-P", password))),
			},
			fails: []string{"NEG-SPLIT", "NEG-GLUED", "RELAY-HALFUP", "RELAY-HALFDOWN", "REQ-BOUND"}, unsupported: []string{"V4-CONNECT", "BIND-PEER", "UDP-ECHO"}},
		{name: "ssh -D", addr: "127.0.0.1:1082", extra: map[string]*probe.Prober{},
			fails: []string{"REQ-REFUSED", "REQ-COMMAND", "NEG-NONE"}, unsupported: []string{"BIND-PEER", "UDP-ECHO"}},
	}
	if os.Getuid() == 0 { // nobody else can read the accounts
		coverAccounts(t)
		danted(t, "1081", "username")
		all[1].extra["AUTH-"] = account("127.0.0.1:1081")
	}
	reports := make([]*probe.Report, len(all))
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() { reports[i] = p.run(t) })
	}
	wg.Wait()
	for i, p := range all {
		p.compare(t, reports[i])
	}
	if file := os.Getenv(conformanceFile); file != "" {
		writeConformance(t, file, reports)
	}
}

// run probes a proxy, and again for the rows that need something else.
func (p *probed) run(t *testing.T) *probe.Report {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	report, err := (&probe.Prober{Addr: p.addr}).Run(ctx)
	if err != nil {
		t.Errorf("%s: %v", p.name, err)
		return &probe.Report{}
	}
	report.Proxy = p.name
	for prefix, prober := range p.extra {
		more, err := prober.Run(ctx)
		if err != nil {
			t.Errorf("%s, %s: %v", p.name, prefix, err)
			continue
		}
		for i, row := range report.Rows {
			for _, other := range more.Rows {
				if row.ID == other.ID && strings.HasPrefix(row.ID, prefix) {
					report.Rows[i] = other
				}
			}
		}
	}
	return report
}

// compare wants a report to say what is known.
func (p *probed) compare(t *testing.T, report *probe.Report) {
	rows := make(map[string]probe.Row)
	for _, row := range report.Rows {
		rows[row.ID] = row
		if p.name == "argyle" && row.Status != probe.Pass {
			t.Errorf("argyle: %s: %s: %s", row.ID, row.Status, row.Detail)
		}
	}
	for status, ids := range map[probe.Status][]string{probe.Fail: p.fails, probe.Unsupported: p.unsupported} {
		for _, id := range ids {
			if rows[id].Status != status {
				t.Errorf("%s: %s: %s, %s; known is %s", p.name, id, rows[id].Status, rows[id].Detail, status)
			}
		}
	}
}

// conformanceMark is where the table begins in docs/conformance.md, and where it ends.
const conformanceMark = "<!-- table -->\n"

func writeConformance(t *testing.T, file string, reports []*probe.Report) {
	t.Helper()
	for i, of := range []string{"", "dante-server", "microsocks", "openssh-client"} {
		if of != "" {
			version, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", of).Output()
			if err != nil {
				t.Fatal(err)
			}
			reports[i].Proxy += " " + string(version)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(b), conformanceMark)
	if len(parts) != 3 {
		t.Fatalf("%s has no table", file)
	}
	var table strings.Builder
	if err := probe.WriteMarkdown(&table, reports...); err != nil {
		t.Fatal(err)
	}
	text := parts[0] + conformanceMark + table.String() + conformanceMark + parts[2]
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestProbe has the program's flags and what it prints.
func TestProbe(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	c := start(t, program(t, "probe", "--only", "REQ-IPV4", "--only", "UDP-ECHO", "-v", "socks5://"+s.addr))
	if code := c.wait(t); code != 0 || !strings.Contains(c.stdout.String(), "ok    REQ-IPV4") || !strings.Contains(c.stdout.String(), "tcp > 05 01 00") {
		t.Errorf("exit status %d\n%s", code, c.stdout.String())
	}
	c = start(t, program(t, "probe", "--only", "REQ", "--json", s.addr))
	var report probe.Report
	if code := c.wait(t); code != 0 || json.Unmarshal([]byte(c.stdout.String()), &report) != nil || len(report.Rows) < 15 || !report.OK() {
		t.Errorf("exit status %d\n%s", code, c.stdout.String())
	}
	wrong := startListening(t, command(t, peer(t, "microsocks"), "-i", "127.0.0.1", "-p", "0"))
	c = start(t, program(t, "probe", "--only", "NEG-SPLIT", "--markdown", wrong, s.addr))
	if code := c.wait(t); code != 1 || !strings.Contains(c.stdout.String(), "| NEG-SPLIT | MUST | reads messages in pieces (T1) | **no**") {
		t.Errorf("exit status %d\n%s", code, c.stdout.String())
	}
	helper := start(t, program(t, "probe", "--serve-helper", "127.0.0.1:0"))
	eventually(t, "the helper's secret", func() bool { return strings.Contains(helper.stdout.String(), "\n") })
	c = start(t, program(t, append([]string{"probe", "--only", "BIND", "--only", "RELAY"}, append(strings.Fields(helper.stdout.String()), s.addr)...)...))
	if code := c.wait(t); code != 0 || strings.Count(c.stdout.String(), "ok  ") < 11 {
		t.Errorf("exit status %d\n%s", code, c.stdout.String())
	}
	for _, test := range []struct {
		args []string
		want string
		code int
	}{
		{nil, "want the URL of a proxy", 2},
		{[]string{"http://gw"}, "want a SOCKS proxy on HOST:PORT", 2},
		{[]string{"--only", "X", "gw"}, `--only: no row "X"`, 2},
		{[]string{"--helper", "x", "gw"}, "want SECRET@HOST:PORT", 2},
		{[]string{"--json", "--markdown", "gw"}, "want one of them", 2},
		{[]string{"--serve-helper", "x"}, "want HOST:PORT", 2},
		{[]string{"--serve-helper", "127.0.0.1:0", "gw"}, "goes with nothing else", 2},
		{[]string{closedPort(t)}, "reach the proxy: ", 1},
	} {
		c := start(t, program(t, append([]string{"probe"}, test.args...)...))
		if code := c.wait(t); code != test.code || !strings.Contains(c.stderr.String(), test.want) {
			t.Errorf("%q: exit status %d, %q; want %d, %s", test.args, code, c.stderr.String(), test.code, test.want)
		}
	}
}
