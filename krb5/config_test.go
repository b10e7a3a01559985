package krb5

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func settingsOf(text string) (*settings, error) {
	r := profileReader{into: make(profile)}
	if err := r.text("krb5.conf", text, 0); err != nil {
		return nil, err
	}
	return newSettings(r.into, slog.New(slog.DiscardHandler))
}

func TestConfigRealms(t *testing.T) {
	for name, text := range map[string]string{
		"two sections":  "[realms]\n A = {\n  kdc = a\n }\n[libdefaults]\n default_realm = A\n[realms]\n B = {\n  kdc = b:89\n }\n",
		"in pieces":     "[realms]\n B = {\n  kdc = b:89\n }\n A = {\n }\n A = {\n  kdc = a\n }\n",
		"one line":      "[realms]\n A = { kdc = a }\n B = { kdc = b:89 }\n",
		"subsections":   "[realms]\n A = {\n  auth_to_local_names = {\n   kdc = x\n  }\n  kdc = a\n }\n B = {\n  kdc = b:89\n  v4_instance_convert = {\n   a = b\n  }\n }\n",
		"comments":      "; c\n[realms] # c\n# c\n A = { # c\n  kdc = a\n }\n B = {\n  kdc = b:89\n }\n",
		"final":         "[realms]*\n A = {\n  kdc = a*\n }*\n B = {\n  kdc* = b:89\n }\n",
		"protocols":     "[realms]\n A = {\n  kdc = tcp/a:88\n }\n B = {\n  kdc = udp/b:89\n }\n",
		"quotes":        "[realms]\n A = {\n  kdc = \"a\"\n }\n B = {\n  kdc = \"b:89\"\n }\n",
		"module before": "module /usr/lib/x.so:p\n[realms]\n A = {\n  kdc = a\n }\n B = {\n  kdc = b:89\n }\n",
		"rules":         "[realms]\n A = {\n  kdc = a\n  auth_to_local = RULE:[1:$1@$0](.*@A)s/@.*//\n }\n B = {\n  kdc = b:89\n }\n[capaths]\n A = {\n  B = .\n }\n",
	} {
		s, err := settingsOf(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := map[string][]string{"A": {"a:88"}, "B": {"b:89"}}; !reflect.DeepEqual(s.kdcs, want) {
			t.Errorf("%s: %v, want %v", name, s.kdcs, want)
		}
	}
	s, err := settingsOf("[realms]\n A = {\n  kdc = [::1]\n  kdc = [::2]:89\n }\n[domain_realm]\n gw.example.test = A\n .Example.test = B\n other.test = C\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"[::1]:88", "[::2]:89"}; !slices.Equal(s.kdcs["A"], want) {
		t.Errorf("%v, want %v", s.kdcs["A"], want)
	}
	for host, want := range map[string]string{
		"gw.example.test": "A", "GW.example.test.": "A", "a.b.example.test": "B", "example.test": "", "x.other.test": "C", "test": "",
	} {
		if got := s.realmOf(host); got != want {
			t.Errorf("the realm of %s is %q, want %q", host, got, want)
		}
	}
}

func TestConfigTypes(t *testing.T) {
	for text, want := range map[string][]int32{
		"": {18, 17, 20, 19},
		"permitted_enctypes = aes256-cts-hmac-sha384-192 aes128-cts-hmac-sha256-128": {20, 19},
		"permitted_enctypes = aes256-sha2, aes128-sha2,rc4-hmac":                     {20, 19},
		"permitted_enctypes = aes":                     {18, 17, 20, 19},
		"permitted_enctypes = DEFAULT -aes128-cts":     {18, 20, 19},
		"default_tgs_enctypes = aes256-cts,aes128-cts": {18, 17},
		"default_tgs_enctypes = aes256-cts,aes128-cts\n permitted_enctypes = aes128-sha1 aes256-sha2": {17},
		"A = {\n  default_tgs_enctypes = aes256-cts\n }":                                              {18, 17, 20, 19},
	} {
		s, err := settingsOf("[libdefaults]\n " + text + "\n")
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := s.LibDefaults.DefaultTGSEnctypeIDs; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

// What is wrong is told with its place.
func TestConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		"[libdefaults]\n permitted_enctypes = rc4-hmac\n":    "krb5.conf:2: permitted_enctypes = rc4-hmac",
		"[libdefaults]\n what\n":                             `krb5.conf:2: "what", want KEY = VALUE`,
		"[realms]\n A = {\n  kdc = a\n":                      "krb5.conf:2: A = { has no end",
		"[realms]\n A = {\n  kdc = https://a/KdcProxy\n }\n": "krb5.conf:3: kdc = https://a/KdcProxy: want HOST",
		"[realms]\n A = {\n  kdc = a:0\n }\n":                "krb5.conf:3: kdc = a:0: port",
		"[realms\n":                                          "krb5.conf:1: ",
		"a = b\n":                                            "krb5.conf:1: ",
		"[realms]\n }\n":                                     "krb5.conf:2: ",
	} {
		if _, err := settingsOf(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestConfigInclude(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"krb5.conf": "includedir " + dir + "/d\ninclude " + dir + "/more\n[libdefaults]\n default_realm = A\n",
		"d/one":     "[libdefaults]\n default_realm = B\n[realms]\n B = {\n  kdc = b\n }\n",
		"d/.hidden": "nonsense",
		"more":      "[realms]\n C = {\n  kdc = c\n }\n",
		"loop":      "include " + dir + "/loop\n",
	} {
		_ = os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := loadSettings(dir+"/krb5.conf:"+dir+"/none", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if s.LibDefaults.DefaultRealm != "B" || len(s.kdcs) != 2 {
		t.Errorf("the realm is %s, the KDCs are %v", s.LibDefaults.DefaultRealm, s.kdcs)
	}
	if _, err := loadSettings(dir+"/loop", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file that includes itself is taken")
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("[libdefaults]\n default_realm = A\n ticket_lifetime = 1d 2h\n[realms]\n A = {\n  kdc = \"a\"\n }\n B = { kdc = b }\n")
	f.Fuzz(func(_ *testing.T, text string) {
		if strings.Contains(text, "include") {
			return // files of this machine
		}
		_, _ = settingsOf(text)
	})
}
