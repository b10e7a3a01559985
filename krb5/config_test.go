package krb5

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// settingsOf reads a krb5.conf without others.
func settingsOf(text string) (*settings, error) {
	all, err := parseProfile("krb5.conf", text, func(string, bool) ([]relation, error) { return nil, errors.New("no other file") })
	if err != nil {
		return nil, err
	}
	return newSettings(all, slog.New(slog.DiscardHandler))
}

func TestSettings(t *testing.T) {
	const types = "[18 17 20 19]"
	for _, test := range []struct{ name, text, want string }{
		{"none", "", " map[] map[] " + types + types},
		{"two sections", "[realms]\n A = {\n  kdc = a\n }\n[libdefaults]\n default_realm = A\n[realms]\n B = {\n  kdc = b\n }\n A = {\n kdc = c\n}", "A map[A:[a:88 c:88] B:[b:88]] map[] " + types + types},
		{"one line", "[realms]\n A = { kdc = b }\n B = {}\n", " map[A:[b:88]] map[] " + types + types},
		{"brace alone", "[realms]\n A =\n {\n kdc = b\n}*\n", " map[A:[b:88]] map[] " + types + types},
		{"subsection of defaults", "[libdefaults]\n A = {\n default_realm = A\n default_tkt_enctypes = rc4\n }\n default_realm = B\n default_realm = C", "B map[] map[] " + types + types},
		{"subsection of a realm", "[realms]\n A = {\n auth_to_local_names = {\n  kdc = x\n }\n auth_to_local = RULE:[1:$1@$0](.{3}@A)s/@.*//\n kdc = b\n }", " map[A:[b:88]] map[] " + types + types},
		{"addresses", "[realms]\n A = {\n kdc = [::1]:90\n kdc = [::2]\n kdc = ::3\n kdc = tcp/k:1\n kdc = https://k/p\n kdc = \"q\" # quoted\n}", " map[A:[[::1]:90 [::2]:88 [::3]:88 k:1 q:88]] map[] " + types + types},
		{"domains", "[domain_realm]\n .A.test = A\n a.test = B\n a.test = C", " map[] map[.a.test:A a.test:B] " + types + types},
		{"comments", "; c\n[libdefaults] # d\n# e\n default_realm = A ; f\n[realms]* \n A = { # g\n kdc = b # h\n }\n", "A map[A:[b:88]] map[] " + types + types},
		{"a bad value", "[libdefaults]\n ticket_lifetime = ever\n forwardable = perhaps\n default_realm = A", "A map[] map[] " + types + types},
		{"permitted", "[libdefaults]\n permitted_enctypes = aes256-cts-hmac-sha384-192 aes128-cts-hmac-sha256-128 rc4\n", " map[] map[] [20 19][20 19]"},
		{"aliases", "[libdefaults]\n permitted_enctypes = AES128-sha2,aes256-sha2, aes256-sha1 aes128-sha1\n default_tkt_enctypes = aes256-cts,aes128-sha2", " map[] map[] [18 19][19 20 18 17]"},
		{"family", "[libdefaults]\n permitted_enctypes = aes -aes128-cts camellia\n", " map[] map[] [18 20 19][18 20 19]"},
		{"default", "[libdefaults]\n default_tgs_enctypes = DEFAULT -aes256-sha1 +rc4", " map[] map[] [18 17 20 19][17 20 19]"},
	} {
		s, err := settingsOf(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		d := s.LibDefaults
		if got := fmt.Sprint(d.DefaultRealm, " ", s.realms, " ", s.domains, " ", d.DefaultTktEnctypeIDs, "", d.DefaultTGSEnctypeIDs); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		if !d.DNSLookupKDC {
			t.Errorf("%s: no KDC is looked up", test.name)
		}
	}
	if s, err := settingsOf("[libdefaults]\ndns_lookup_kdc = no"); err != nil || s.LibDefaults.DNSLookupKDC {
		t.Error("KDCs are looked up", err)
	}
}

func TestMalformedSettings(t *testing.T) {
	for text, want := range map[string]string{
		"a = b":                                   `krb5.conf:1: "a = b" before the first section, want \[name\]`,
		"[libdefaults\n":                          `krb5.conf:1: section \[libdefaults, want \[name\]`,
		"\n[realms]\n foo\n":                      `krb5.conf:3: "foo", want name = value`,
		"[realms]\n }\n":                          `krb5.conf:2: a } without its {`,
		"[realms]\n A = {\n kdc = b":              `krb5.conf:3: the file ends inside of realms, A, want }`,
		"[realms]\n A = {\n[libdefaults]\n":       `krb5.conf:3: section \[libdefaults\] inside of realms, A, want }`,
		"[realms]\n A =\n kdc = b\n":              `krb5.conf:3: "kdc = b" after A =, want {`,
		"include x":                               `krb5.conf:1: cannot include: no other file`,
		"[libdefaults]\npermitted_enctypes = rc4": `krb5.conf:2: permitted_enctypes is "rc4", want a permitted encryption type of AES`,
	} {
		if _, err := settingsOf(text); !matches("^"+want, err) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestRealmOf(t *testing.T) {
	s, err := settingsOf("[domain_realm]\n gw.a.test = HOST\n .a.test = A\n b.test = B\n .test = TEST")
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"GW.a.test.": "HOST", "x.gw.a.test": "HOST", "x.a.test": "A", "a.test": "TEST", "x.b.test": "B", "b.test": "B", "test": "", "": "",
	} {
		if got := s.realmOf(host); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
}

// TestIncludes has sections that end with the file that they are in.
func TestIncludes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("d/a.conf", "[realms]\n A = {\n kdc = a\n }\n")
	write("d/.hidden.conf", "nonsense")
	write("d/b.conf~", "nonsense")
	one := write("one", "[libdefaults]\ninclude "+write("two", "[realms]\n A = {\n kdc = two\n }\n")+"\n default_realm = A\nincludedir "+dir+"/d\n")
	s, err := loadSettings(filepath.Join(dir, "none")+":"+one, slog.New(slog.DiscardHandler))
	if err != nil || fmt.Sprint(s.realms, s.LibDefaults.DefaultRealm) != "map[A:[two:88 a:88]]A" {
		t.Errorf("%v, %+v", err, s)
	}
	loop := write("loop", "include "+filepath.Join(dir, "loop")+"\n")
	if _, err := loadSettings(loop, slog.New(slog.DiscardHandler)); !matches("more than 10 files include one another", err) {
		t.Error(err)
	}
	if _, err := loadSettings(write("lost", "include "+filepath.Join(dir, "none")), slog.New(slog.DiscardHandler)); !matches("lost:1: cannot include: .*none", err) {
		t.Error(err)
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("[realms]\n A = { kdc = b }\n[libdefaults]\n permitted_enctypes = aes, -aes128-cts\n ticket_lifetime = 1d\n[domain_realm]\n .a = A\n")
	f.Add("[a]\n b =\n {\n c = \"\\\"\"\n}*\n")
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := settingsOf(text); err == nil {
			_ = s.realmOf(text)
		}
	})
}
