package main

import (
	"testing"

	"github.com/argyle-socks/argyle/internal/krbtest"
	"github.com/argyle-socks/argyle/krb5"
)

// A name or a realm that looks like another one is nobody's.
func TestGSSAPIAdmits(t *testing.T) {
	t.Parallel()
	acceptor := &krb5.Acceptor{Keytab: krbtest.Keytab(t, "rcmd/localhost@EXAMPLE.TEST")}
	for _, k := range []*kerberos{{acceptor: acceptor}, {acceptor: acceptor, principals: []string{"*@EXAMPLE.TEST"}}} {
		for peer, want := range map[string]bool{
			"ann@EXAMPLE.TEST":                 true,
			"ann@PARTNER.TEST":                 false,
			`ann@EVIL\@EXAMPLE.TEST`:           false,
			`ann\@PARTNER.TEST@EXAMPLE.TEST`:   false,
			"WELLKNOWN/ANONYMOUS@EXAMPLE.TEST": k.principals != nil,
			"WELLKNOWN/ANONYMOUS@ANOTHER.TEST": false,
		} {
			if got := k.admits(peer); got != want {
				t.Errorf("%q with principals %q: %v", peer, k.principals, got)
			}
		}
	}
	k := &kerberos{names: map[string]string{"*/*@R": "*", "*@R": "*-*"}}
	for peer, want := range map[string]string{"*/root@R": "*", "ann/root@R": "ann", "ann@R": "ann-*"} {
		if got := k.user(peer); got != want {
			t.Errorf("%q is %q, want %q", peer, got, want)
		}
	}
}
