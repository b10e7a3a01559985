package krb5_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/argyle-socks/argyle/internal/krbtest"
	"github.com/argyle-socks/argyle/krb5"
)

const service = "rcmd/localhost@EXAMPLE.TEST"

func TestAccept(t *testing.T) {
	keytab := krbtest.Keytab(t, service, "host/localhost@EXAMPLE.TEST")
	for etype := int32(17); etype <= 19; etype++ {
		a := &krb5.Acceptor{Keytab: "FILE:" + keytab}
		c := a.Accept()
		reply, done, err := c.Step(krbtest.Token{Etype: etype, Client: "al/ice@EXAMPLE.TEST"}.Make(t))
		if err != nil || !done || len(reply) == 0 || c.Peer() != "al/ice@EXAMPLE.TEST" {
			t.Errorf("%d: %d bytes, %v, %v, peer %s", etype, len(reply), done, err, c.Peer())
		}
		if _, _, err := c.Step(nil); err == nil {
			t.Error("a second step of an established context is no error")
		}
	}
	c := (&krb5.Acceptor{Keytab: keytab}).Accept()
	if reply, done, err := c.Step(krbtest.Token{NotMutual: true}.Make(t)); err != nil || !done || len(reply) > 0 {
		t.Errorf("not mutual: %d bytes, %v, %v", len(reply), done, err)
	}
}

// TestRefusals has a reason for each.
func TestRefusals(t *testing.T) {
	keytab := krbtest.KeytabOf(t,
		krbtest.Key{Service: service, Password: krbtest.Password, Etype: 18, KVNO: 3},
		krbtest.Key{Service: service, Password: krbtest.Password, Etype: 18, KVNO: 4},
		krbtest.Key{Service: "host/localhost@EXAMPLE.TEST", Password: krbtest.Password, Etype: 18, KVNO: 3},
	)
	for _, test := range []struct {
		name  string
		token krbtest.Token
		want  string
	}{
		{"other realm", krbtest.Token{Service: "rcmd/localhost@OTHER.TEST"}, "from the wrong realm, OTHER.TEST; keytab .* is of EXAMPLE.TEST"},
		{"other host", krbtest.Token{Service: "rcmd/elsewhere@EXAMPLE.TEST"}, "for rcmd/elsewhere@EXAMPLE.TEST, of which keytab .* has no key"},
		{"other service", krbtest.Token{Service: "host/localhost@EXAMPLE.TEST", KVNO: 3}, "is for host/localhost@EXAMPLE.TEST, and not for the service rcmd"},
		{"old key", krbtest.Token{KVNO: 2}, "key version 2, but keytab .* has version 3, 4: export the new keys"},
		{"new key", krbtest.Token{KVNO: 5}, "key version 5, but keytab"},
		{"other type", krbtest.Token{KVNO: 3, Etype: 17}, "encrypted with aes128-cts-hmac-sha1-96, of which keytab .* has no key, only aes256-cts-hmac-sha1-96"},
		{"weak type", krbtest.Token{KVNO: 3, Etype: 23}, "rc4-hmac is not supported, .*: let the principal have keys of AES"},
		{"other key", krbtest.Token{KVNO: 3, Password: "what?"}, "has another key of version 3: integrity check failed"},
		{"expired", krbtest.Token{KVNO: 3, Begin: -2 * time.Hour, End: -time.Hour}, "of alice@EXAMPLE.TEST expired at .*, 1h0m.* ago: .* kinit"},
		{"not yet", krbtest.Token{KVNO: 3, Begin: time.Hour, End: 2 * time.Hour}, "is good only from .*: compare this machine's clock"},
		{"ahead", krbtest.Token{KVNO: 3, Skew: 20 * time.Minute}, "clock of alice@EXAMPLE.TEST is (20m0s|19m59s) ahead of this machine's, 5m0s are allowed: synchronise"},
		{"behind", krbtest.Token{KVNO: 3, Skew: -20 * time.Minute}, "behind this machine's"},
		{"stolen", krbtest.Token{KVNO: 3, Presenter: "eve@EXAMPLE.TEST"}, "ticket of alice@EXAMPLE.TEST was presented by eve@EXAMPLE.TEST"},
		{"no checksum", krbtest.Token{KVNO: 3, Checksum: []byte("short")}, "no checksum of the GSS-API"},
		{"strange name", krbtest.Token{KVNO: 3, Client: "al\nice@EXAMPLE.TEST"}, "characters that no name should"},
	} {
		a := &krb5.Acceptor{Keytab: keytab}
		_, done, err := a.Accept().Step(test.token.Make(t))
		if done || !matches(test.want, err) {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
}

// TestReplay presents a token twice, to acceptors that share what they know.
func TestReplay(t *testing.T) {
	keytab := krbtest.Keytab(t, service)
	var replays krb5.Replays
	first, second := &krb5.Acceptor{Keytab: keytab, Replays: &replays}, &krb5.Acceptor{Keytab: keytab, Replays: &replays}
	token := krbtest.Token{}.Make(t)
	if _, _, err := first.Accept().Step(bytes.Clone(token)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := second.Accept().Step(token); !matches("token of alice@EXAMPLE.TEST was replayed", err) {
		t.Errorf("the second time: %v", err)
	}
}

// TestRollover renews the key under a running acceptor.
func TestRollover(t *testing.T) {
	old := krbtest.Key{Service: service, Password: "old", Etype: 18, KVNO: 1}
	renewed := krbtest.Key{Service: service, Password: "new", Etype: 18, KVNO: 2}
	keytab := krbtest.KeytabOf(t, old)
	a := &krb5.Acceptor{Keytab: keytab}
	accepts := func(password string, kvno int) error {
		_, _, err := a.Accept().Step(krbtest.Token{Password: password, KVNO: kvno}.Make(t))
		return err
	}
	if err := accepts("old", 1); err != nil {
		t.Error(err)
	}
	if accepts("new", 2) == nil {
		t.Error("a key that is not there yet was known")
	}
	b, err := os.ReadFile(krbtest.KeytabOf(t, old, renewed))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keytab, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for kvno, password := range map[int]string{1: "old", 2: "new"} {
		if err := accepts(password, kvno); err != nil {
			t.Errorf("after the renewal, version %d: %v", kvno, err)
		}
	}
	if err := os.WriteFile(keytab, []byte("\x05\x02half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := accepts("new", 2); err != nil {
		t.Errorf("while the keytab is being written: %v", err)
	}
}

// A keytab that is gone stays in use, which is told; one without the service's keys
// is believed.
func TestWithdrawnKeytab(t *testing.T) {
	keytab := krbtest.Keytab(t, service)
	var log strings.Builder
	a := &krb5.Acceptor{Keytab: keytab, Log: slog.New(slog.NewTextHandler(&log, nil))}
	accepts := func() error {
		_, _, err := a.Accept().Step(krbtest.Token{}.Make(t))
		return err
	}
	if err := a.Check(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(keytab); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := accepts(); err != nil {
			t.Error(err)
		}
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, log.String())
	}
	b, err := os.ReadFile(krbtest.Keytab(t, "host/localhost@EXAMPLE.TEST"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keytab, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := accepts(); !matches("ticket is for rcmd/localhost@EXAMPLE.TEST, of which keytab .* has no key", err) {
		t.Errorf("with another service's keys: %v", err)
	}
	if err := a.Check(); err == nil {
		t.Error("the check finds them good")
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 2 {
		t.Errorf("%d warnings, want two:\n%s", n, log.String())
	}
}

// What can be sent again whole is refused if it is older than what is remembered.
func TestBeforeStart(t *testing.T) {
	keytab := krbtest.Keytab(t, service)
	old := krbtest.Token{NotMutual: true, Skew: -time.Minute}
	a := &krb5.Acceptor{Keytab: keytab}
	if _, _, err := a.Accept().Step(old.Make(t)); !matches("is from before the start of this server", err) {
		t.Errorf("got %v", err)
	}
	if _, _, err := a.Accept().Step(krbtest.Token{NotMutual: true, Skew: time.Minute}.Make(t)); err != nil {
		t.Errorf("a new one: %v", err)
	}
	if _, _, err := a.Accept().Step(krbtest.Token{Skew: -time.Minute}.Make(t)); err != nil {
		t.Errorf("with mutual authentication: %v", err)
	}
}

func TestServiceOfRealm(t *testing.T) {
	keytab := krbtest.Keytab(t, service, "rcmd/localhost@OTHER.TEST")
	for _, name := range []string{"rcmd@EXAMPLE.TEST", "rcmd/localhost@EXAMPLE.TEST"} {
		a := &krb5.Acceptor{Keytab: keytab, Service: name}
		if got := fmt.Sprint(a.Principals()); got != "[rcmd/localhost@EXAMPLE.TEST]" {
			t.Errorf("%s stands for %s", name, got)
		}
		if _, _, err := a.Accept().Step(krbtest.Token{}.Make(t)); err != nil {
			t.Error(err)
		}
		other := krbtest.Token{Service: "rcmd/localhost@OTHER.TEST"}
		if _, _, err := a.Accept().Step(other.Make(t)); !matches("ticket is for rcmd/localhost@OTHER.TEST, and not for the service "+name, err) {
			t.Errorf("a ticket of another realm: %v", err)
		}
	}
}

// Names are to be logged: who has no ticket at all does not choose how long.
func TestLongNames(t *testing.T) {
	a := &krb5.Acceptor{Keytab: krbtest.Keytab(t, service)}
	long := strings.Repeat("x", 60_000)
	for _, w := range []krbtest.Token{{Service: long + "@EXAMPLE.TEST"}, {Client: long + "@EXAMPLE.TEST"}, {Presenter: long + "@EXAMPLE.TEST"}} {
		if _, _, err := a.Accept().Step(w.Make(t)); err == nil || len(err.Error()) > 2000 {
			t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
		}
	}
}

func TestCheckKeytab(t *testing.T) {
	dir := t.TempDir()
	empty := dir + "/empty"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		a    *krb5.Acceptor
		want string
	}{
		{&krb5.Acceptor{Keytab: dir + "/missing"}, "missing: no such file"},
		{&krb5.Acceptor{Keytab: empty}, "keytab .*/empty: not a keytab"},
		{&krb5.Acceptor{Keytab: "MEMORY:x"}, "keytabs of type MEMORY are not supported, want a file"},
		{&krb5.Acceptor{Keytab: krbtest.Keytab(t, "host/a@EXAMPLE.TEST")}, "no key of the service rcmd, only of host/a@EXAMPLE.TEST"},
		{&krb5.Acceptor{Keytab: krbtest.Keytab(t, "rcmd/a@EXAMPLE.TEST"), Service: "rcmd/b"}, "no key of the service rcmd/b"},
		{&krb5.Acceptor{Keytab: krbtest.KeytabOf(t, krbtest.Key{Service: service, Password: "x", Etype: 23, KVNO: 1})}, "no key of rcmd is of AES"},
	} {
		if err := test.a.Check(); !matches(test.want, err) {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
	a := krb5.Acceptor{Keytab: krbtest.Keytab(t, "rcmd/a@EXAMPLE.TEST", "rcmd/b@OTHER.TEST", "host/a@THIRD.TEST")}
	if got := fmt.Sprint(a.Principals(), a.Realms()); got != "[rcmd/a@EXAMPLE.TEST rcmd/b@OTHER.TEST] [EXAMPLE.TEST OTHER.TEST]" {
		t.Error(got)
	}
}

// TestMutated changes a good token everywhere, and cuts it short: none is
// accepted, and nothing panics.
func TestMutated(t *testing.T) {
	keytab := krbtest.Keytab(t, service)
	good := krbtest.Token{}.Make(t)
	for bit := range len(good) * 8 {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		a := &krb5.Acceptor{Keytab: keytab}
		// The kind of the service's name is of no consequence (RFC 4120,
		// section 6.2), and nothing protects it.
		if _, done, err := a.Accept().Step(b); (done || err == nil) && !bytes.HasSuffix(good[:bit/8], []byte{0xa0, 3, 2, 1}) {
			t.Errorf("bit %d of byte %d flipped: accepted", bit%8, bit/8)
		}
	}
	a := &krb5.Acceptor{Keytab: keytab}
	for n := range good {
		if _, _, err := a.Accept().Step(bytes.Clone(good[:n])); err == nil {
			t.Fatalf("cut to %d bytes: accepted", n)
		}
	}
	for _, b := range krbtest.ShortCiphers(t) {
		if _, _, err := a.Accept().Step(b); err == nil || strings.Contains(err.Error(), "runtime error") {
			t.Errorf("short cipher: %v", err)
		}
	}
}

func FuzzAccept(f *testing.F) {
	keytab := krbtest.Keytab(f, service)
	for _, token := range append(krbtest.ShortCiphers(f), krbtest.Token{}.Make(f), krbtest.Token{NotMutual: true}.Make(f)) {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token []byte) {
		c := (&krb5.Acceptor{Keytab: keytab}).Accept()
		if _, done, err := c.Step(token); done != (err == nil) {
			t.Errorf("done %v with %v", done, err)
		}
	})
}

func matches(pattern string, err error) bool {
	return err != nil && regexp.MustCompile(pattern).MatchString(err.Error())
}
