package users

import (
	"strings"
	"testing"
)

// hashes were made by the tools that people use.
var hashes = []struct{ made, password, hash string }{
	{"htpasswd -nbB -C 5", "correct horse", "$2y$05$gezyus5F01hTxVErbtC4ieoUD1kP6Ho8sXipKX/FvaSkxtKrfuUAe"},
	{"htpasswd -nbB -C 5", "x", "$2y$05$h3JrPxtGS/7Bp3xvNtRDeumQRgds9I9NttmCxYhYPkvHGG9.h6wmW"},
	{"htpasswd -nbB -C 4", "pässwörd ☃", "$2y$04$qKBemWY.dCfm8m8yV.1tL.OQUQzYUazR9VVo0bVx1QjIkn3XSFqh."},
	{"htpasswd -nbB -C 5", strings.Repeat("a", 100), "$2y$05$wD7vS7Na1DApo4nknCFe4ODELLEbzxi6XB5WzKp/AYbVCAZRlb4RC"},
	{"mkpasswd -m bcrypt -R 5", "correct horse", "$2b$05$W.Q8fCpHU4VlniG0mZ6RuegVWaAs/BSbBikGRm6UZCvCHfp8kB8pO"},
	{"mkpasswd -m bcrypt -R 5", strings.Repeat("a", 100), "$2b$05$twFw9yfDwnALWTBkrkyJa..PPUl3AO3bzxD/A.BxzvWtlxYShJjy2"},
	{"mkpasswd -m bcrypt-a -R 5", "correct horse", "$2a$05$0QbPicZgPuzu//4yS2bVwOxiQCl8VFNidzVseYc9d3CHO/joG2TT2"},
	{"mkpasswd -m sha-512", "correct horse", "$6$aXUpIqsXi3DPUreP$IVEgQXzNhF3y3IO5ZFz4M6SeVDYdl/rDpUC7bWRDe4YuVkSkVwOrGInjarBJdEthaSKDFKscPP3G7xJ/.ypwQ/"},
	{"mkpasswd -m sha-512", "x", "$6$HsU2WXdFucLs1c21$a8ChnUVTjyfTU8AZNaFrvBKftSjySG.1xlO9kSCAV24CREWc8mJ2q0nlR1FYQyu1iHe5WmSiDA5nYd8jah8LA1"},
	{"mkpasswd -m sha-512 -R 1000", "correct horse", "$6$rounds=1000$xNGE3V1gWXODsHse$.17j4UNAl1vp1.ikaw9/c4Dg53gP9jLigXM6/757GbiBIYO0xiBqeuD3HlwM96Aypj9.tMyj1ErmpSxR3tfBh/"},
	{"mkpasswd -m sha-512 -R 1000", strings.Repeat("a", 100), "$6$rounds=1000$sJXrJ0RqaWvSV.4y$M4UxcX4dtmcFdmIEU5HVnh.GYhQ2Wueza1JQjyGCOy11el4KqbbYIsFhNqQd7GEY6lbwnGiBTx4xxzaONEHh8."},
	{"mkpasswd -m sha-256", "correct horse", "$5$Tt3n5EHzQ8/Mw3us$Wb4YTq64ZTre8Zte4jLT5OVFIb7AR5hdKIT3gQ.S3ZB"},
	{"mkpasswd -m sha-256 -R 1234", "correct horse", "$5$rounds=1234$Ih58CjRfNGC.7dZ4$sGYw51.MKwbwO10b99fqIj8m5TH7criJX6oUs8QFgJ5"},
	{"mkpasswd -m sha-256 -R 1000", "pässwörd ☃", "$5$rounds=1000$62PPPWSeE8.8que0$/offaNXHvrJNgNEbVDLvs43Zu8os/lDblbJsDuhSYBA"},
	{"mkpasswd -m sha-256 -R 1000", strings.Repeat("q", 255), "$5$rounds=1000$I99NG7Wbhk/k3rgn$UW5TiDyvD.H2HydU3w0V1nwxK9Jn.QmWU3Xz7w5SHv6"},
	{"htpasswd -nb2 -r 5000", "x", "$5$rounds=5000$A.ffhTtTtLKgNUMS$p.s9L0P0F2EMNtHf5evlzZB0swfc6JWqw1GrtexcO17"},
	{"htpasswd -nb5", "x", "$6$RlHXhYLfU4AU2p8u$cROyFm6dWgqJzXkmO8vDmoDOF0MHOz2ts/sKOvxO4vbLEOhXWpv5P34APOOu0hE36KtfkAdA4YghtgGEHYm3f."},
	{"argon2 -id -e", "correct horse", "$argon2id$v=19$m=4096,t=3,p=1$c2FsdHNhbHRzYWx0$3mvEPlZKJ/Y2GNQzO96fxdGRhbZUuT1HiBRDNhGvfmk"},
	{"argon2 -id -e -k 19456 -t 2 -p 1", "correct horse", "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$AdweBLwcflnNX2HVW8i1Mtu7frrn4Ki7h/rYSGuU7Is"},
	{"argon2 -id -e -k 256 -t 3 -p 4 -l 16", "correct horse", "$argon2id$v=19$m=256,t=3,p=4$c2FsdHNhbHRzYWx0c2FsdA$2tQS5B/sB4/b1w6vkkUPEg"},

	// Test vectors of the specification of SHA-crypt.
	{"specification", "Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"},
	{"specification", "Hello world!", "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"},
	{"specification", "a very much longer text to encrypt.  This one even stretches over morethan one line.",
		"$5$rounds=1400$anotherlongsalts$Rx.j8H.h8HjEDGomFU8bDkXm3XIUnzyxf12oP84Bnq1"},
	{"specification", "Hello world!", "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"},
	{"specification", "Hello world!", "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v."},
	{"specification", "we have a short salt string but not a short password",
		"$6$rounds=77777$short$WuQyW2YR.hBNpjjRhpYD/ifIw05xdfeEyQoMxIXbkvr0gge1a1x3yRULJ5CCaUeOxFmtlcGZelFl5CxtgfiAc0"},
}

func TestHashesOfOtherTools(t *testing.T) {
	for _, test := range hashes {
		h, err := parseHash(test.hash)
		if err != nil {
			t.Errorf("%s: %s: %v", test.made, test.hash, err)
			continue
		}
		if !h.matches(test.password) {
			t.Errorf("%s: %s: does not match its password", test.made, test.hash)
		}
		for _, wrong := range []string{"", "x" + test.password} {
			if h.matches(wrong) {
				t.Errorf("%s: %s: matches %q", test.made, test.hash, wrong)
			}
		}
	}
}

func TestHash(t *testing.T) {
	for _, password := range []string{"x", "pässwörd: ☃", strings.Repeat("q", 255)} {
		text := Hash(password)
		if !strings.HasPrefix(text, "$argon2id$v=19$m=19456,t=2,p=1$") {
			t.Errorf("Hash(%q) = %s", password, text)
		}
		h, err := parseHash(text)
		if err != nil {
			t.Fatal(err)
		}
		if !h.matches(password) || h.matches(password+"x") {
			t.Errorf("%s does not tell %q from another password", text, password)
		}
	}
	if first, second := Hash("x"), Hash("x"); first == second {
		t.Error("two hashes of one password are equal")
	}
}

func TestParseHashRefuses(t *testing.T) {
	const salt, key = "c2FsdHNhbHRzYWx0c2FsdA", "AdweBLwcflnNX2HVW8i1Mtu7frrn4Ki7h/rYSGuU7Is"
	bcrypt53 := strings.Repeat("a", 53)
	text43, text86 := strings.Repeat("a", 43), strings.Repeat("a", 86)
	for _, test := range []struct{ hash, want string }{
		{"", "the hash is missing"},
		{"secret", "clear-text"},
		{"vtlhWnl52dHjo", "unknown format: want argon2id"}, // htpasswd -d
		{"{SHA}EfatjsUqKYSrqv18O1FlA3hcIHI=", "make bcrypt with htpasswd -B"},
		{"{SSHA}EfatjsUqKYSrqv18O1FlA3hcIHI=", "make bcrypt with htpasswd -B"},
		{"$apr1$BtUp0vmI$JNs2YE.qdQdB4ZfGEExPH.", "make bcrypt with htpasswd -B"},
		{"$1$BtUp0vmI$JNs2YE.qdQdB4ZfGEExPH.", "make bcrypt with htpasswd -B"},
		{"$y$j9T$.OuWWUzRtlf8/Hss12rzT1$4/JMXhyvO73r8SqG92IAhTjFTZfXM7XQbC2zEdlbX8C", "yescrypt"},
		{"$argon2i$v=19$m=19456,t=2,p=1$" + salt + "$" + key, "argon2i and argon2d"},
		{"$argon2d$v=19$m=19456,t=2,p=1$" + salt + "$" + key, "argon2i and argon2d"},

		{"$argon2id$v=16$m=19456,t=2,p=1$" + salt + "$" + key, "malformed argon2id"},
		{"$argon2id$m=19456,t=2,p=1$" + salt + "$" + key, "malformed argon2id"},
		{"$argon2id$v=19$m=19456,t=2$" + salt + "$" + key, "malformed argon2id"},
		{"$argon2id$v=19$t=2,m=19456,p=1$" + salt + "$" + key, "malformed argon2id"},
		{"$argon2id$v=19$m=19456,t=+2,p=1$" + salt + "$" + key, "malformed argon2id"},
		{"$argon2id$v=19$m=19456,t=2,p=$" + salt + "$" + key, "malformed argon2id"},
		{"$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$" + key + "$", "malformed argon2id"},
		{"$argon2id$v=19$m=19456,t=2,p=1$" + salt + "==$" + key, "malformed argon2id"},
		{"$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$", "odd length"},
		{"$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$" + key, "odd length"},
		{"$argon2id$v=19$m=19456,t=2,p=1$" + salt + "$c2FsdA", "odd length"},
		{"$argon2id$v=19$m=131073,t=1,p=1$" + salt + "$" + key, "argon2id m is out of range"},
		{"$argon2id$v=19$m=4294967304,t=1,p=1$" + salt + "$" + key, "argon2id m is out of range"},
		{"$argon2id$v=19$m=99999999999999999999,t=1,p=1$" + salt + "$" + key, "argon2id m is out of range"},
		{"$argon2id$v=19$m=7,t=1,p=1$" + salt + "$" + key, "argon2id m is out of range"},
		{"$argon2id$v=19$m=15,t=1,p=2$" + salt + "$" + key, "argon2id m is out of range"},
		{"$argon2id$v=19$m=19456,t=0,p=1$" + salt + "$" + key, "argon2id t is out of range"},
		{"$argon2id$v=19$m=19456,t=17,p=1$" + salt + "$" + key, "argon2id t is out of range"},
		{"$argon2id$v=19$m=19456,t=2,p=0$" + salt + "$" + key, "argon2id p is out of range"},
		{"$argon2id$v=19$m=19456,t=2,p=17$" + salt + "$" + key, "argon2id p is out of range"},
		{"$argon2id$v=19$m=131072,t=5,p=1$" + salt + "$" + key, "argon2id m times t is out of range"},

		{"$2y$05$" + bcrypt53[1:], "malformed bcrypt"},
		{"$2y$05$" + bcrypt53 + " ", "malformed bcrypt"},
		{"$2y$05$" + bcrypt53[1:] + ":", "malformed bcrypt"},
		{"$2y$005" + bcrypt53, "malformed bcrypt"},
		{"$2y$+5$" + bcrypt53, "bcrypt cost is out of range"},
		{"$2y$03$" + bcrypt53, "bcrypt cost is out of range: want 04 to 14"},
		{"$2y$15$" + bcrypt53, "bcrypt cost is out of range"},
		{"$2x$05$" + bcrypt53, "clear-text"},

		{"$5$salt$" + text86, "malformed SHA-crypt"},
		{"$6$salt$" + text43, "malformed SHA-crypt"},
		{"$6$salt$" + text86 + ":19000:0:99999:7:::", "malformed SHA-crypt"}, // from /etc/shadow
		{"$5$$" + text43, "malformed SHA-crypt"},
		{"$5$seventeen89abcdef$" + text43, "malformed SHA-crypt"},
		{"$5$sa=t$" + text43, "malformed SHA-crypt"},
		{"$5$salt", "malformed SHA-crypt"},
		{"$5$", "malformed SHA-crypt"},
		{"$5$rounds=$salt$" + text43, "malformed SHA-crypt"},
		{"$5$rounds=05000$salt$" + text43, "malformed SHA-crypt"},
		{"$5$rounds=-5000$salt$" + text43, "malformed SHA-crypt"},
		{"$5$rounds=5000", "malformed SHA-crypt"},
		{"$5$rounds=999$salt$" + text43, "rounds are out of range: want 1000 to 1000000"},
		{"$5$rounds=1000001$salt$" + text43, "rounds are out of range"},
		{"$5$rounds=99999999999999999999$salt$" + text43, "rounds are out of range"},
	} {
		_, err := parseHash(test.hash)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("parseHash(%q): %v, want %q", test.hash, err, test.want)
		}
	}
}

// The most that a file may ask for must be bearable.
func BenchmarkDearestHash(b *testing.B) {
	const argon2, sha = "$argon2id$v=19$m=131072,t=4,p=1$c2FsdHNhbHRzYWx0c2FsdA$2tQS5B/sB4/b1w6vkkUPEg", "$6$rounds=1000000$salt$"
	for name, text := range map[string]string{
		"argon2id":  argon2,
		"bcrypt":    "$2y$14$" + strings.Repeat("a", 53),
		"SHA-crypt": sha + strings.Repeat("a", 86),
	} {
		h, err := parseHash(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				h.matches(strings.Repeat("x", 255))
			}
		})
	}
}
