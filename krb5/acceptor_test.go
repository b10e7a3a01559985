package krb5_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
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
}

// TestNotMutual has a token that proves nothing but itself: one that may have
// been accepted before the start, by whatever clock, is not good.
func TestNotMutual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const skew = 5 * time.Minute
		keytab := krbtest.Keytab(t, service)
		a := &krb5.Acceptor{Keytab: keytab}
		if err := a.Check(); err != nil {
			t.Fatal(err)
		}
		before := krbtest.Token{NotMutual: true, Skew: skew}.Make(t)
		time.Sleep(skew - time.Second)
		for name, token := range map[string][]byte{"recorded": before, "new": krbtest.Token{NotMutual: true}.Make(t)} {
			if _, _, err := a.Accept().Step(token); !matches("of alice@EXAMPLE.TEST, without mutual .* good from 5m0s after it", err) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, _, err := a.Accept().Step(krbtest.Token{}.Make(t)); err != nil {
			t.Errorf("with mutual authentication: %v", err)
		}
		time.Sleep(2 * time.Second)
		if reply, done, err := a.Accept().Step(krbtest.Token{NotMutual: true}.Make(t)); err != nil || !done || len(reply) > 0 {
			t.Errorf("later: %d bytes, %v, %v", len(reply), done, err)
		}
	})
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

// TestWithdrawn takes the keytab away under a running acceptor.
func TestWithdrawn(t *testing.T) {
	keytab := krbtest.Keytab(t, service)
	whole, err := os.ReadFile(keytab)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(krbtest.Keytab(t, "host/localhost@EXAMPLE.TEST"))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	a := &krb5.Acceptor{Keytab: keytab, Log: slog.New(slog.NewTextHandler(&log, nil))}
	if err := a.Check(); err != nil {
		t.Fatal(err)
	}
	warnings := 0
	for _, test := range []struct {
		name   string
		keytab []byte // nil: the file is gone
		warns  int
		want   string
	}{
		{"as it was", whole, 0, ""},
		{"gone", nil, 1, ""},
		{"cut short", whole[:40], 1, ""},
		{"back", whole, 0, ""},
		{"gone again", nil, 1, ""},
		{"of another service", other, 0, "no key of the service rcmd, only of host/localhost@EXAMPLE.TEST"},
		{"gone from there", nil, 1, "no key of the service rcmd"},
		{"empty", []byte("\x05\x02"), 0, "keytab .* has no keys"},
		{"back again", whole, 0, ""},
	} {
		if err := os.Remove(keytab); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if test.keytab != nil {
			if err := os.WriteFile(keytab, test.keytab, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			_, _, err := a.Accept().Step(krbtest.Token{}.Make(t))
			if test.want == "" && err != nil || test.want != "" && !matches(test.want, err) {
				t.Errorf("%s: %v, want %q", test.name, err, test.want)
			}
		}
		warnings += test.warns
		if got := strings.Count(log.String(), "cannot be read any more"); got != warnings {
			t.Errorf("%s: %d warnings, want %d:\n%s", test.name, got, warnings, &log)
		}
	}
}

// TestServiceWithRealm has services of one realm.
func TestServiceWithRealm(t *testing.T) {
	keytab := krbtest.Keytab(t, service, "rcmd/localhost@OTHER.TEST")
	for service, principals := range map[string]string{
		"rcmd":                        "[rcmd/localhost@EXAMPLE.TEST rcmd/localhost@OTHER.TEST]",
		"rcmd@EXAMPLE.TEST":           "[rcmd/localhost@EXAMPLE.TEST]",
		"rcmd/localhost@EXAMPLE.TEST": "[rcmd/localhost@EXAMPLE.TEST]",
	} {
		a := &krb5.Acceptor{Keytab: keytab, Service: service}
		if got := fmt.Sprint(a.Principals()); got != principals {
			t.Errorf("%s is %s, want %s", service, got, principals)
		}
		if _, _, err := a.Accept().Step(krbtest.Token{}.Make(t)); err != nil {
			t.Errorf("%s: %v", service, err)
		}
		_, _, err := a.Accept().Step(krbtest.Token{Service: "rcmd/localhost@OTHER.TEST"}.Make(t))
		if both := service == "rcmd"; both != (err == nil) {
			t.Errorf("%s, and a ticket of the other realm: %v", service, err)
		}
	}
}

// TestLongNames has names that anybody can send, ticket or not.
func TestLongNames(t *testing.T) {
	keytab := krbtest.Keytab(t, service)
	long := strings.Repeat("x", 20000)
	for _, token := range []krbtest.Token{
		{Service: long + "@EXAMPLE.TEST"},
		{Service: "rcmd/" + long + "@EXAMPLE.TEST"},
		{Service: "rcmd/localhost@" + long},
		{Service: "rcmd" + strings.Repeat("/", 3000) + "@EXAMPLE.TEST"},
		{Client: long + "@EXAMPLE.TEST"},
		{Client: "alice@" + long},
		{Presenter: long + "@EXAMPLE.TEST"},
	} {
		_, _, err := (&krb5.Acceptor{Keytab: keytab}).Accept().Step(token.Make(t))
		if !matches("the name of .* has [0-9]+ bytes, want 1024 at most", err) || len(err.Error()) > 200 {
			t.Errorf("%.300v", err)
		}
	}
	var many []krbtest.Key
	for n := range 12 {
		many = append(many, krbtest.Key{Service: fmt.Sprintf("rcmd/host%d@EXAMPLE.TEST", n), Password: "x", Etype: 18, KVNO: 1})
	}
	_, _, err := (&krb5.Acceptor{Keytab: krbtest.KeytabOf(t, many...)}).Accept().Step(krbtest.Token{}.Make(t))
	if !matches("only of rcmd/host0@EXAMPLE.TEST, .* and 7 more", err) {
		t.Error(err)
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
