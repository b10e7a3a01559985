//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/argyle-socks/argyle/internal/krbtest"
	"github.com/argyle-socks/argyle/krb5"
)

// TestDocsGSSAPI does what docs/gssapi.md says, in a directory of its own.
func TestDocsGSSAPI(t *testing.T) {
	t.Parallel()
	peer(t, "krb5kdc")
	script := "set -eu\n"
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(docsPage(t, "gssapi"), -1) {
		script += block[1]
		for _, port := range []string{"18888", "1080"} { // started in the background
			if strings.Contains(block[1], " &\n") && strings.Contains(block[1], map[string]string{"18888": "krb5kdc", "1080": "serve"}[port]) {
				script += "until (: </dev/tcp/127.0.0.1/" + port + ") 2>/dev/null; do sleep 0.05; done\n"
			}
		}
	}
	script = "trap 'kill $(jobs -p)' EXIT\n" + script
	for _, port := range []string{"18888", "1080"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, free, _ := net.SplitHostPort(ln.Addr().String())
		script = strings.ReplaceAll(script, port, free)
		ln.Close()
	}
	bin := t.TempDir()
	wrapper := fmt.Sprintf("#!/bin/sh\n%s exec %s \"$@\"\n", strings.Join(programEnv, " "), testBinary(t))
	if err := os.WriteFile(filepath.Join(bin, "argyle"), []byte(wrapper), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, peer(t, "bash"), "-c", script)
	cmd.Env = append(cmd.Env, "PATH="+bin+":/usr/bin:/bin")
	out := start(t, cmd)
	if code := out.wait(t); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	for stream, want := range map[string]string{
		out.stdout.String(): "rcmd/localhost@EXAMPLE.TEST|ann@EXAMPLE.TEST", out.stderr.String(): "user=ann@EXAMPLE.TEST",
	} {
		if !regexp.MustCompile(want).MatchString(stream) {
			t.Errorf("nothing of %s in\n%s", want, stream)
		}
	}
}

// TestGSSAPIRefusals has the program say why it refuses a token, and the client learn only that it is refused.
func TestGSSAPIRefusals(t *testing.T) {
	t.Parallel()
	keytab := krbtest.Keytab(t, "rcmd/localhost@EXAMPLE.TEST", "host/localhost@EXAMPLE.TEST")
	config := writeFile(t, "argyle.yaml", `auth: {gssapi: {keytab: `+keytab+`, level: integrity, principals: ["a*@EXAMPLE.TEST"]}}`)
	s := startServer(t, "-c", config)
	twice := krbtest.Token{Client: "anna@EXAMPLE.TEST"}.Make(t)
	present(t, s.addr, twice, true)
	garbled := krbtest.Token{Client: "al@EXAMPLE.TEST"}.Make(t)
	garbled[len(garbled)-9] ^= 1
	for _, test := range []struct {
		token []byte
		want  string
	}{
		{krbtest.Token{Service: "rcmd/localhost@OTHER.TEST"}.Make(t), "from the wrong realm, OTHER.TEST"},
		{krbtest.Token{Begin: -2 * time.Hour, End: -time.Hour}.Make(t), "expired at"},
		{krbtest.Token{Skew: time.Hour}.Make(t), "ahead of this machine's"},
		{krbtest.Token{KVNO: 7}.Make(t), "key version 7, but keytab"},
		{krbtest.Token{Service: "host/localhost@EXAMPLE.TEST"}.Make(t), "and not for the service rcmd"},
		{krbtest.Token{Client: "bob@EXAMPLE.TEST"}.Make(t), "may not log in"},
		{twice, "of anna@EXAMPLE.TEST was replayed"},
		{garbled, "authenticator of al@EXAMPLE.TEST cannot be decrypted: integrity check failed"},
		{twice[:len(twice)-5], "the length in the token is not that of the token"},
		{[]byte("GET / HTTP/1.0"), "no token of the GSS-API"},
		{krbtest.ShortCiphers(t)[0], "too short"},
	} {
		present(t, s.addr, test.token, false)
		s.session(t, "the reason "+test.want, func(line logLine) bool {
			return line.Msg == "login refused" && strings.Contains(line.Err, test.want)
		})
	}
}

// present shows a token to a server, which is to accept it, or to refuse it as RFC 1961, section 3.6, says.
func present(t testing.TB, addr string, token []byte, accepted bool) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	say := append([]byte{5, 1, 1, 1, 1, byte(len(token) >> 8), byte(len(token))}, token...)
	if _, err := conn.Write(say); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4)
	if n, err := io.ReadFull(conn, answer); err != nil {
		t.Fatalf("% x, %v", answer[:n], err)
	}
	want := "\x05\x01\x01\xff"
	if accepted {
		want = "\x05\x01\x01\x01"
	}
	if string(answer) != want {
		t.Errorf("answered % x, want % x", answer, want)
	}
}

// TestGSSAPIPrograms has the program for the client: with a cache, with a keytab, through another proxy, and with mistakes.
func TestGSSAPIPrograms(t *testing.T) {
	t.Parallel()
	r := startRealm(t)
	cache := r.kinit(t, "alice", "krb5.conf")
	s := startServer(t, "-c", writeFile(t, "argyle.yaml", `
auth: {gssapi: {keytab: `+r.keytab+`, level: confidentiality, map: {"*@EXAMPLE.TEST": "*"}}}
users: {groups: {staff: ["*@EXAMPLE.TEST"], people: [alice]}}
rules:
  - {group: people, auth: gssapi, action: allow}
`))
	url := "socks5h://localhost:" + s.port() + "?auth=gssapi"
	host, port, _ := net.SplitHostPort(echo(t, "127.0.0.1:0"))
	through := func(proxy string, env ...string) *child {
		t.Helper()
		cmd := program(t, "connect", "-x", proxy, host, port)
		cmd.Env = append(append(cmd.Env, "KRB5_CONFIG="+r.file("krb5.conf")), env...)
		cmd.Stdin = strings.NewReader("hello")
		return start(t, cmd)
	}
	dir := t.TempDir()
	b, err := os.ReadFile(cache)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "tkt"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, url string
		env       []string
	}{
		{"cache", url, []string{"KRB5CCNAME=FILE:" + cache}},
		{"directory of caches", url, []string{"KRB5CCNAME=DIR:" + dir}},
		{"option", url + "&ccache=" + cache, []string{"KRB5CCNAME=KEYRING:persistent:0"}},
		{"keytab", url + "&keytab=" + r.file("alice.keytab") + "&principal=alice%40EXAMPLE.TEST", nil},
		{"client keytab", url, []string{"KRB5CCNAME=/nowhere", "KRB5_CLIENT_KTNAME=FILE:" + r.file("alice.keytab")}},
		{"address", strings.Replace(url, "localhost", "127.0.0.1", 1) + "&service=rcmd/localhost", []string{"KRB5CCNAME=" + cache}},
	} {
		c := through(test.url, test.env...)
		if code := c.wait(t); code != 0 || c.stdout.String() != "hello" {
			t.Errorf("%s: exit status %d, %q", test.name, code, c.stdout.String())
		}
	}
	s.session(t, "alice's", func(line logLine) bool { return line.Cmd == "connect" && line.User == "alice" && line.Err == "" })
	for _, test := range []struct {
		url, env, want string
		code           int
	}{
		{url, "KRB5CCNAME=/nowhere", "no credential cache /nowhere: get a ticket with kinit", 1},
		{url, "KRB5CCNAME=KEYRING:persistent:0", "caches of type KEYRING are not supported", 1},
		{strings.Replace(url, "localhost", "127.0.0.1", 1), "KRB5CCNAME=" + cache, "the KDC does not know the service: is the proxy's host written", 1},
		{url + "&service=host", "KRB5CCNAME=" + cache, "has refused the GSS-API context", 1},
		{url + "&level=integrity", "KRB5CCNAME=" + cache, "does not grant the protection level integrity", 1},
		{url + "&level=high", "", `option level: protection level "high", want clear, integrity or confidentiality`, 2},
		{url + "&nec=1", "", `option nec is "1", want yes or no`, 2},
		{strings.Replace(url, "//", "//ann:pw@", 1), "", "no user name and password go with it", 2},
		{strings.Replace(url, "gssapi", "kerberos", 1), "", `option auth is "kerberos", want gssapi`, 2},
		{"socks5h://localhost?level=clear", "", "option level is for auth=gssapi", 2},
		{"socks4a://localhost?auth=gssapi", "", `unknown option "auth" for socks4a`, 2},
	} {
		c := through(test.url, test.env)
		if code := c.wait(t); code != test.code || !strings.Contains(c.stderr.String(), test.want) {
			t.Errorf("%s: exit status %d, %q; want %d, %s", test.url, code, c.stderr.String(), test.code, test.want)
		}
	}
}

// TestPrincipals says who may log in, and as whom.
func TestPrincipals(t *testing.T) {
	t.Parallel()
	keytab := krbtest.Keytab(t, "rcmd/localhost@A", "rcmd/localhost@B", "host/localhost@C")
	k := kerberos{acceptor: &krb5.Acceptor{Keytab: keytab}}
	for peer, want := range map[string]bool{"ann@A": true, "ann@B": true, "ann@C": false, "ann@AA": false, `ann\@A@C`: false} {
		if k.admits(peer) != want {
			t.Errorf("without principals: %s %v", peer, !want)
		}
	}
	k.principals = []string{"ann@A", "*/admin@A", "*@B*"}
	for peer, want := range map[string]bool{
		"ann@A": true, "bob@A": false, "bob/admin@A": true, "bob@B": true, "x@BB": true, "anna@A": false, `ann@A\@B@C`: false,
		"bob/admin@C": false, "/admin@A": true,
	} {
		if k.admits(peer) != want {
			t.Errorf("%s %v", peer, !want)
		}
	}
	k.names = map[string]string{"*@A": "*", "*/admin@A": "*-admin", "root@A": "toor", "*/*@B": "*.*", "x*@*": "*~*"}
	for peer, want := range map[string]string{
		"ann@A": "ann", "ann/admin@A": "ann-admin", "root@A": "toor", "a/b@B": "a.b", "ann@B": "ann@B", "xyz@C": "yz~C", `x\@A@D`: `\@A~D`,
	} {
		if got := k.user(peer); got != want {
			t.Errorf("%s is %s, want %s", peer, got, want)
		}
	}
}
