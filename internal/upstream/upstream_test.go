package upstream

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/socks"
)

// describe writes down a dialer's fields as they are: a SOCKS proxy's version and who resolves names, an address, user
// and password, TLS and its server name.
func describe(d argyle.Dialer) string {
	login := func(user, password string) string {
		if user == "" && password == "" {
			return ""
		}
		return fmt.Sprintf(" %q %q", user, password)
	}
	switch d := d.(type) {
	case *argyle.Direct:
		return "direct"
	case *socks.Dialer:
		text := "socks5"
		if d.Version == 4 {
			text = "socks4"
		}
		if d.ResolveNames {
			text += " names here"
		}
		text += " " + d.Addr + login(d.User, d.Password)
		if d.TLS != nil {
			text += " tls " + d.TLS.ServerName
		}
		return strings.TrimSpace(text)
	case *httpconnect.Dialer:
		text := "http " + d.Addr + login(d.User, d.Password)
		if d.TLS != nil {
			text += " tls " + d.TLS.ServerName
		}
		return strings.TrimSpace(text)
	case *SSH:
		text := "ssh " + d.Addr + login(d.User, d.Password)
		if len(d.Identity)+len(d.KnownHosts) > 0 {
			text += fmt.Sprintf(" %q %q", d.Identity, d.KnownHosts)
		}
		return text
	}
	return fmt.Sprintf("%T", d)
}

func TestParse(t *testing.T) {
	tests := []struct{ url, want string }{
		// Schemes and their ports.
		{"gw", "socks5 gw:1080"},
		{"gw:1081", "socks5 gw:1081"},
		{"gw.example", "socks5 gw.example:1080"},
		{"socks5h://gw", "socks5 gw:1080"},
		{"socks5://gw", "socks5 names here gw:1080"},
		{"socks4a://gw", "socks4 gw:1080"},
		{"socks4://gw", "socks4 names here gw:1080"},
		{"socks5h+tls://gw", "socks5 gw:1080 tls"},
		{"socks5+tls://gw", "socks5 names here gw:1080 tls"},
		{"http://gw", "http gw:8080"},
		{"https://gw", "http gw:443 tls"},
		{"ssh://gw", "ssh gw:22"},
		{"ssh://gw:2222", "ssh gw:2222"},
		{"ssh://[2001:db8::1]", "ssh [2001:db8::1]:22"},
		{"ssh://ann@gw", `ssh gw:22 "ann" ""`},
		{"ssh://ann:a%40b@gw", `ssh gw:22 "ann" "a@b"`},
		{"ssh://gw?known_hosts=/dev/null", `ssh gw:22 [] ["/dev/null"]`},
		{"direct://", "direct"},
		{"direct:///", "direct"},
		{"SOCKS5://gw", "socks5 names here gw:1080"},
		{"HTTP://GW:3128", "http GW:3128"},

		// Hosts and ports.
		{"socks5h://gw/", "socks5 gw:1080"},
		{"socks5h://gw:9050/", "socks5 gw:9050"},
		{"http://gw:1", "http gw:1"},
		{"http://gw:65535", "http gw:65535"},
		{"socks5h://192.0.2.1", "socks5 192.0.2.1:1080"},
		{"192.0.2.1:9050", "socks5 192.0.2.1:9050"},
		{"[2001:db8::1]", "socks5 [2001:db8::1]:1080"},
		{"[2001:db8::1]:9050", "socks5 [2001:db8::1]:9050"},
		{"https://[::1]", "http [::1]:443 tls"},
		{"https://[::1]:8443/", "http [::1]:8443 tls"},
		{"socks5h://[fe80::1%eth0]:1080", "socks5 [fe80::1%eth0]:1080"},
		{"socks5h://[fe80::1%25eth0]:1080", "socks5 [fe80::1%eth0]:1080"}, // RFC 6874
		{"socks5h://b\xc3\xbccher.example", "socks5 b\xc3\xbccher.example:1080"},

		// Users and passwords.
		{"ann@gw", `socks5 gw:1080 "ann" ""`},
		{"ann:@gw", `socks5 gw:1080 "ann" ""`},
		{"ann:secret@gw", `socks5 gw:1080 "ann" "secret"`},
		{":secret@gw", `socks5 gw:1080 "" "secret"`},
		{"@gw", "socks5 gw:1080"},
		{"http://ann:secret@gw", `http gw:8080 "ann" "secret"`},
		{"socks4://ann@gw", `socks4 names here gw:1080 "ann" ""`},
		{"socks5h://ann:a%40b%3Ac%2Fd%3Fe%25f@gw:1", `socks5 gw:1 "ann" "a@b:c/d?e%f"`},
		{"socks5h://a%3An%40n:p@gw", `socks5 gw:1080 "a:n@n" "p"`},
		{"socks5h://ann:a@b:c/d@gw", `socks5 gw:1080 "ann" "a@b:c/d"`}, // as it comes, while it is clear
		{"socks5h://ann:a+b c@gw", `socks5 gw:1080 "ann" "a+b c"`},
		{"ann:a://b@gw", `socks5 gw:1080 "ann" "a://b"`},
		{"socks5h://ann:%C3%BC\xc3\xbc@gw", "socks5 gw:1080 \"ann\" \"\xc3\xbc\xc3\xbc\""},
		{"socks5h://ann:secret@[::1]:9050", `socks5 [::1]:9050 "ann" "secret"`},
		{"https://ann:secret@gw?sni=other.example", `http gw:443 "ann" "secret" tls other.example`},
		{"socks5h://" + strings.Repeat("u", 255) + ":" + strings.Repeat("p", 255) + "@gw",
			fmt.Sprintf("socks5 gw:1080 %q %q", strings.Repeat("u", 255), strings.Repeat("p", 255))},

		// Unix sockets.
		{"unix:/run/gw.sock", "socks5 unix:/run/gw.sock"},
		{"socks5://unix:/run/gw.sock", "socks5 names here unix:/run/gw.sock"},
		{"http://unix:/run/gw.sock", "http unix:/run/gw.sock"},
		{"http://ann:secret@unix:/run/gw.sock", `http unix:/run/gw.sock "ann" "secret"`},
		{"https://unix:/run/gw.sock?sni=gw", "http unix:/run/gw.sock tls gw"},
		{"unix:/run/a%40b%3Fc%25d", "socks5 unix:/run/a@b?c%d"},
	}
	for _, tt := range tests {
		d, err := Parse(tt.url, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
		} else if got := describe(d); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.url, got, tt.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	long := strings.Repeat("x", 256)
	tests := []struct{ url, want string }{
		{"", "neither a name nor an address"},
		{"socks5h://", "neither a name nor an address"},
		{"socks5h://ann:secret@", "neither a name nor an address"},
		{"socks6://gw", `unknown scheme "socks6", want one of socks5h, socks5, socks4a, socks4, socks5h+tls, socks5+tls, http, https, ssh, direct`},
		{"ftp://gw", `unknown scheme "ftp"`},
		{"http+tls://gw", `unknown scheme "http+tls"`},
		{"socks4+tls://gw", `unknown scheme "socks4+tls"`},
		{"ssh://ann:secret@box?identity=/nonexistent/id", "option identity: key: open /nonexistent/id: no such file"},
		{"ssh://box?identity=/dev/null", "option identity: key /dev/null: ssh: no key found"},
		{"ssh://box?known_hosts=/nonexistent/kh", "option known_hosts: open /nonexistent/kh: no such file"},
		{"ssh://box?known_hosts=/etc/passwd", "option known_hosts: knownhosts: /etc/passwd:"},
		{"ssh://box?identity=", "option identity must have one value"},
		{"ssh://box?ca=/x", `unknown option "ca" for ssh`},
		{"ssh://ann:secret@unix:/run/sshd", "ssh wants a host"},
		{"ssh://ann:se?cret@box", "? in a password as %3F"},
		{"direct://gw", "direct takes no host"},
		{"direct://ann:secret@", "direct takes no host"},
		{"direct://?sni=gw", `unknown option "sni" for direct`},

		{"gw:", `port "" is not a number`},
		{"gw:0", `port "0" is not a number from 1 to 65535`},
		{"gw:65536", `port "65536"`},
		{"gw:-1", `port "-1"`},
		{"gw:+1", `port "+1"`},
		{"gw:socks", `port "socks"`},
		{"gw:1080:1080", "too many colons"},
		{"gw:1080/path", `port "1080/path"`},
		{"socks5h://gw/path", "neither a name nor an address"},
		{"2001:db8::1", "IPv6 in brackets"},
		{"[2001:db8::1", "IPv6 in brackets"},
		{"[2001:db8::1]1080", "IPv6 in brackets"},
		{"[2001:db8::1%eth0]", "neither a name nor an address"}, // a zone without a meaning
		{"[]:1080", "neither a name nor an address"},
		{"g w", "neither a name nor an address"},
		{" socks5h://gw", `port "//gw"`},
		{"127.1", "neither a name nor an address"},
		{"0x7f000001:1080", "neither a name nor an address"},

		{"ann:100%@gw", "must be written as %25"},
		{"a%zz:secret@gw", "must be written as %25"},
		{strings.Repeat("u", 256) + ":secret@gw", "at most 255 bytes"},
		{"ann:" + long + "@gw", "at most 255 bytes"},
		{"http://a%3Ab:secret@gw", "no colon"},
		{"https://a%3Ab:secret@gw", "no colon"},
		{"socks5h://ann:se?cret@gw", "? in a password as %3F"},
		{"socks5h+tls://gw:1080?ca=/etc/a@b.pem", "@ in an option as %40"},

		{"unix:", "without a path"},
		{"socks5h://unix:", "without a path"},
		{"unix:/run/a@b", "@ in a path"},
		{"unix:/run/100%", "% in a path"},

		{"gw?sni=x", `unknown option "sni" for socks5h`},
		{"socks4://gw?ca=x", `unknown option "ca" for socks4`},
		{"http://gw?ca=x", `unknown option "ca" for http`},
		{"https://gw?identity=x", `unknown option "identity" for https`},
		{"https://gw?insecure", `unknown option "insecure"`},
		{"https://gw?CA=x", `unknown option "CA"`},
		{"https://gw?ca=%zz", "options: invalid URL escape"},
		{"https://gw?sni=a;sni=b", "options: "},
		{"https://gw?sni=a&sni=b", "option sni must have one value"},
		{"https://gw?sni=", "option sni must have one value"},
		{"https://gw?ca", "option ca must have one value"},
		{"https://gw?cert=/nonexistent/c", "options cert and key belong together"},
		{"https://gw?key=/nonexistent/k", "options cert and key belong together"},
		{"https://gw?ca=/nonexistent/ca", "option ca: open /nonexistent/ca: no such file"},
		{"https://gw?ca=/dev/null", "option ca: no certificate in /dev/null"},
		{"https://gw?cert=/nonexistent/c&key=/nonexistent/k", "options cert and key: open /nonexistent/c: no such file"},
		{"https://gw?cert=/dev/null&key=/dev/null", "options cert and key: "},
	}
	for _, tt := range tests {
		d, err := Parse(tt.url, nil)
		switch {
		case err == nil:
			t.Errorf("%.60s: no error but %s", tt.url, describe(d))
		case !strings.Contains(err.Error(), tt.want):
			t.Errorf("%.60s: %v, want %s", tt.url, err, tt.want)
		case !strings.HasPrefix(err.Error(), `proxy URL "`):
			t.Errorf("%.60s: the error does not name the URL: %v", tt.url, err)
		case strings.Contains(err.Error(), "secret"), strings.Contains(err.Error(), long):
			t.Errorf("%.60s: the error shows the password: %.200s", tt.url, err)
		case strings.Contains(err.Error(), "\n"):
			t.Errorf("%.60s: more than a line: %q", tt.url, err)
		}
	}
	if _, err := Parse("https://gw?ca=/nonexistent/ca", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not ErrNotExist", err)
	}
}

func TestRedact(t *testing.T) {
	for url, want := range map[string]string{
		"":                                   "",
		"gw":                                 "gw",
		"socks5h://gw:1080":                  "socks5h://gw:1080",
		"ann@gw":                             "ann@gw",
		"socks5h://ann@gw":                   "socks5h://ann@gw",
		"ann:secret@gw":                      "ann:…@gw",
		"ann:@gw":                            "ann:…@gw",
		":secret@gw":                         ":…@gw",
		"http://ann:secret@gw:1":             "http://ann:…@gw:1",
		"http://ann:se@cret@gw":              "http://ann:…@gw",
		"http://ann:se:cr/et@gw":             "http://ann:…@gw",
		"http://ann:se?cret@gw":              "http://ann:…@gw",
		"http://ann:secret@gw?ca=x":          "http://ann:…@gw?ca=x",
		"http://ann:secret@unix:/run/x":      "http://ann:…@unix:/run/x",
		"ann:se://cret@gw":                   "ann:…@gw",
		"ann://secret@gw":                    "ann:…@gw", // no scheme, but a user and //secret
		"ssh://ann:secret@gw":                "ssh://ann:…@gw",
		"socks5h://unix:/secret@gw":          "socks5h://unix:…@gw",
		"socks5h+tls://gw:1?ca=/etc/a@b.pem": "socks5h+tls://gw:…@b.pem",
	} {
		if got := Redact(url); got != want {
			t.Errorf("Redact(%s) = %s, want %s", url, got, want)
		}
	}
}

func TestString(t *testing.T) {
	for url, want := range map[string]string{
		"ann:secret@gw":                 "socks5h://gw:1080",
		"socks5://ann:secret@gw":        "socks5://gw:1080",
		"socks4a://ann:secret@gw":       "socks4a://gw:1080",
		"socks4://ann:secret@[::1]":     "socks4://[::1]:1080",
		"socks5h+tls://ann:secret@gw":   "socks5h+tls://gw:1080",
		"http://ann:secret@gw":          "http://gw:8080",
		"https://ann:secret@gw":         "https://gw:443",
		"ann:secret@unix:/run/gw.sock":  "socks5h://unix:/run/gw.sock",
		"direct://":                     "direct",
		"ssh://ann:secret@gw":           "ssh://gw:22",
		"https://ann:secret@gw?sni=elf": "https://gw:443",
	} {
		d, err := Parse(url, nil)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := d.(fmt.Stringer).String(); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}

// What leads to a proxy stays around it.
func TestParseForward(t *testing.T) {
	near := &socks.Dialer{Addr: "near:1080"}
	for _, url := range []string{"socks5h://far", "socks4://far", "http://far", "https://far", "ssh://far"} {
		d, err := Parse(url, near)
		if err != nil {
			t.Fatal(err)
		}
		if got := forwardOf(d); got != argyle.Dialer(near) {
			t.Errorf("%s goes through %v", url, got)
		}
	}
	if d, err := Parse("direct://", near); err != nil || d != argyle.Dialer(near) {
		t.Errorf("direct through a proxy: %v, %v", d, err)
	}
	checked := &argyle.Direct{Resolver: nil, Check: nil}
	if d, err := Parse("gw", checked); err != nil || forwardOf(d) != nil {
		t.Errorf("%v, %v: a direct way needs no mention", d, err)
	}
	checked.Check = nobody
	if d, err := Parse("gw", checked); err != nil || forwardOf(d) != argyle.Dialer(checked) {
		t.Errorf("%v, %v: the check is lost", d, err)
	}
	for _, scheme := range []string{"socks5h", "http"} {
		_, err := Parse(scheme+"://ann:secret@unix:/run/far.sock", near)
		if err == nil || !strings.Contains(err.Error(), "cannot be reached through another proxy") || strings.Contains(err.Error(), "secret") {
			t.Errorf("unix behind a proxy: %v", err)
		}
	}
}

func forwardOf(d argyle.Dialer) argyle.Dialer {
	switch d := d.(type) {
	case *socks.Dialer:
		return d.Forward
	case *httpconnect.Dialer:
		return d.Forward
	case *SSH:
		return d.Forward
	}
	return nil
}

func TestChainErrors(t *testing.T) {
	if d, err := Chain(nil); err != nil || describe(d) != "direct" {
		t.Errorf("an empty chain is %v, %v", d, err)
	}
	if d, err := Chain([]string{"direct://", "direct://"}); err != nil || describe(d) != "direct" {
		t.Errorf("direct twice is %v, %v", d, err)
	}
	for _, urls := range [][]string{
		{"gw", "socks6://ann:secret@gw"},
		{"gw:0", "gw"},
		{"gw", "unix:/run/gw.sock"},
	} {
		if _, err := Chain(urls); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", urls, err)
		}
	}
}

// FuzzParse puts a word into the password of all kinds of URLs, right and wrong ones, and looks for it in everything
// that is printed.
func FuzzParse(f *testing.F) {
	const secret = "hush7"
	for _, around := range []string{"", "correct horse", "?", "@", "/", "//", "%zz", "%", ":", "#", "\x00\xff\n", "…", "]", "[", "unix:/", "&ca=", strings.Repeat("x", 250)} {
		for _, at := range []uint{0, uint(len(around)) / 2, uint(len(around))} {
			f.Add("socks5h://", "ann", around, at, "gw:1080")
			f.Add("http://", "unix", around, at, "unix:/run/gw.sock")
			f.Add("https://", "", around, at, "gw?ca=/dev/null")
			f.Add("", "ann", around, at, "[::1]")
			f.Add("ssh://", "ann", around, at, "box")
			f.Add("ssh://", "ann", around, at, "[::1]:2222?known_hosts=/dev/null&identity=/dev/null")
			f.Add("direct://", "ann", around, at, "")
			f.Add("nonsense://", "ann", around, at, "")
			f.Add("a b://", "x%", around, at, "gw:99999?x=%zz")
		}
	}
	f.Fuzz(func(t *testing.T, scheme, user, around string, at uint, host string) {
		at = min(at, uint(len(around)))
		password := around[:at] + secret + around[at:]
		name, isScheme := strings.CutSuffix(scheme, "://")
		switch {
		case strings.ContainsAny(user, ":@"), strings.Contains(host, "@"), strings.ContainsAny(name, ":@"),
			scheme != "" && !isScheme,
			scheme == "" && knows(strings.ToLower(user)) && strings.HasPrefix(password, "//"),
			strings.Contains(strings.ToLower(scheme+user+host), secret):
			return // then the password is not where it seems to be
		}
		s := scheme + user + ":" + password + "@" + host
		d, err := Parse(s, nil)
		printed := []string{Redact(s)}
		if err != nil {
			printed = append(printed, err.Error())
		} else {
			printed = append(printed, d.(fmt.Stringer).String())
			if scheme == "" || knows(strings.ToLower(name)) {
				checkLogin(t, d, user, password)
			}
		}
		for _, text := range printed {
			if strings.Contains(strings.ToLower(text), secret) {
				t.Errorf("the password of %q is in %q", s, text)
			}
		}
	})
}

// checkLogin wants a dialer with the user and the password of a URL that was not refused.
func checkLogin(t *testing.T, d argyle.Dialer, user, password string) {
	t.Helper()
	wantUser, errUser := url.PathUnescape(user)
	wantPassword, errPassword := url.PathUnescape(password)
	if err := errors.Join(errUser, errPassword); err != nil {
		t.Errorf("user %q and password %q pass: %v", user, password, err)
	}
	var gotUser, gotPassword string
	switch d := d.(type) {
	case *socks.Dialer:
		gotUser, gotPassword = d.User, d.Password
	case *httpconnect.Dialer:
		gotUser, gotPassword = d.User, d.Password
	case *SSH:
		gotUser, gotPassword = d.User, d.Password
	}
	if gotUser != wantUser || gotPassword != wantPassword {
		t.Errorf("user %q and password %q have become %q and %q", user, password, gotUser, gotPassword)
	}
}
