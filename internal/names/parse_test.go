package names

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseServer(t *testing.T) {
	tests := map[string]Server{
		"system":                              {},
		"192.0.2.53":                          {Network: "udp", Address: "192.0.2.53:53"},
		"192.0.2.53:5353":                     {Network: "udp", Address: "192.0.2.53:5353"},
		"2001:db8::53":                        {Network: "udp", Address: "[2001:db8::53]:53"},
		"[2001:DB8::53]":                      {Network: "udp", Address: "[2001:db8::53]:53"},
		"[2001:db8::53]:54":                   {Network: "udp", Address: "[2001:db8::53]:54"},
		"fe80::53%eth0":                       {Network: "udp", Address: "[fe80::53%eth0]:53"},
		"udp://192.0.2.53":                    {Network: "udp", Address: "192.0.2.53:53"},
		"udp://[fe80::53%25eth0]:54":          {Network: "udp", Address: "[fe80::53%eth0]:54"},
		"TCP://[2001:db8::53]":                {Network: "tcp", Address: "[2001:db8::53]:53"},
		"tls://192.0.2.53":                    {Network: "tls", Address: "192.0.2.53:853"},
		"tls://dns.example":                   {Network: "tls", Address: "dns.example:853"},
		"tls://192.0.2.53?name=dns.example":   {Network: "tls", Address: "192.0.2.53:853", Name: "dns.example"},
		"tls://DNS.example?address=192.0.2.1": {Network: "tls", Address: "192.0.2.1:853", Name: "dns.example"},
		"tls://192.0.2.53?name=192.0.2.53":    {Network: "tls", Address: "192.0.2.53:853"},
		"https://dns.example":                 {Network: "https", Address: "dns.example:443", Path: "/dns-query"},
		"https://192.0.2.53/":                 {Network: "https", Address: "192.0.2.53:443", Path: "/"},
		"https://dns.example:8443/a%2Fb?address=2001:db8::53": {
			Network: "https", Address: "[2001:db8::53]:8443", Name: "dns.example", Path: "/a%2Fb"},
		"https://[2001:db8::53]/dns-query": {Network: "https", Address: "[2001:db8::53]:443", Path: "/dns-query"},
	}
	for text, want := range tests {
		got, err := ParseServer(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
		if again, err := ParseServer(got.String()); err != nil || again != got {
			t.Errorf("%s: written as %s, read as %+v, %v", text, got, again, err)
		}
	}
}

func TestParseServerErrors(t *testing.T) {
	tests := map[string]string{
		"":                                    "expected an IP address such as",
		"dns.example":                         "expected an IP address such as",
		"192.0.2.53 ":                         "expected an IP address such as",
		"quic://192.0.2.53":                   "tls:// or https://",
		"0.0.0.0":                             "expected an IP address",
		"192.0.2.53:0":                        "from 1 to 65535",
		"192.0.2.53:65536":                    "from 1 to 65535",
		"192.0.2.53:":                         "from 1 to 65535",
		"udp://dns.example":                   `"dns.example": expected an IP address`,
		"udp://192.0.2.53:x":                  "invalid port",
		"udp://192.0.2.53:99999":              "from 1 to 65535",
		"udp://192.0.2.53/x":                  "expected no path",
		"udp://192.0.2.53?name=x":             `option "name": expected none with udp`,
		"tls://192.0.2.53/x":                  "expected no path",
		"tls://192.0.2.53?nom=x":              `option "nom": expected one of address, ca, name`,
		"tls://192.0.2.53?name=":              "option name: expected one value",
		"tls://192.0.2.53?name=a&name=b":      "option name: expected one value",
		"tls://192.0.2.53?name=a..b":          "option name",
		"tls://a?name=b&address=192.0.2.1":    "expected one of the options name and address",
		"tls://192.0.2.53?name=%zz":           "invalid URL escape",
		"tls://a_b..c":                        "expected a host name or an IP address",
		"https://dns.example?name=x":          "expected one of address, ca",
		"https://dns.example?address=x":       `option address: "x": expected an IP address`,
		"https://user:secret@dns.example":     "nothing but scheme://host",
		"https://dns.example#x":               "nothing but scheme://host",
		"https:///dns-query":                  "nothing but scheme://host",
		"https://dns.example/dns-query{?dns}": `option "dns}"`,
		"tls://192.0.2.53?ca=/does/not/exist": "/does/not/exist",
	}
	for text, want := range tests {
		got, err := ParseServer(text)
		if err == nil || got != (Server{}) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "name server ") {
			t.Errorf("%s: got %+v, %v; want %s", text, got, err, want)
		}
	}
}

func TestAuthorities(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseServer("tls://192.0.2.53?ca=" + file); err == nil || !strings.Contains(err.Error(), "no certificate in PEM form") {
		t.Errorf("got %v", err)
	}
}

func TestLabel(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.53":       "192.0.2.53:53",
		"tls://192.0.2.53": "tls://192.0.2.53:853",
		"https://dns.example/secret?address=192.0.2.53": "https://dns.example",
	} {
		s, err := ParseServer(text)
		if err != nil || s.label() != want {
			t.Errorf("%s: got %s, %v", text, s.label(), err)
		}
	}
}

// FuzzParseServer reads again what it has written. It opens no files.
func FuzzParseServer(f *testing.F) {
	for _, text := range []string{
		"system", "192.0.2.53:5353", "[2001:db8::53]:53", "fe80::1%a", "udp://[fe80::1%25a]", "tcp://192.0.2.53:53",
		"tls://192.0.2.53:853?name=dns.example&ca=%2Fca.pem", "https://dns.example:8443/a%2fb/{x}?address=2001:db8::1&ca=x", "https://[::1]",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseServer(text)
		if err != nil {
			return
		}
		again, err := parseServer(s.String())
		if err != nil || again != s {
			t.Errorf("%q: %+v was written as %q and read as %+v, %v", text, s, s.String(), again, err)
		}
	})
}
