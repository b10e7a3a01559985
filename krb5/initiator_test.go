package krb5

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// confOf is a krb5.conf with a KDC.
func confOf(t *testing.T, kdc, more string) string {
	return liarConfig(t, "[libdefaults]\n default_realm = EXAMPLE.TEST\n dns_lookup_kdc = false\n[realms]\n EXAMPLE.TEST = {\n  kdc = "+kdc+"\n }\n"+more)
}

// honestKDC counts logins and tickets that it has given. Those that are asked
// for in EXAMPLE.TEST are referred to OTHER.TEST if refers.
func honestKDC(t *testing.T, refers bool) (keytab, addr string, logins, tickets *atomic.Int32) {
	keytab, kt := liarKeytab(t, "alice")
	key, _, err := kt.GetEncryptionKey(types.NewPrincipalName(1, "alice"), liarRealm, 1, 18)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := enctypeOf(18)
	session := e.newKey()
	logins, tickets = new(atomic.Int32), new(atomic.Int32)
	addr = liarKDC(t, func(b []byte) []byte {
		var as messages.ASReq
		if as.Unmarshal(b) == nil {
			logins.Add(1)
			return liarAnswer(t, as.ReqBody, as.ReqBody.CName, as.ReqBody.SName.NameString, liarRealm, key, 3, e.newKey(), session, 11)
		}
		var tgs messages.TGSReq
		if err := tgs.Unmarshal(b); err != nil {
			t.Error(err)
			return nil
		}
		tickets.Add(1)
		realm, name := tgs.ReqBody.Realm, tgs.ReqBody.SName.NameString
		if refers && realm == liarRealm {
			name = []string{"krbtgt", "OTHER.TEST"}
		}
		return liarAnswer(t, tgs.ReqBody, types.NewPrincipalName(1, "alice"), name, realm, session, 8, e.newKey(), session, 13)
	})
	return keytab, addr, logins, tickets
}

// TestReferralElsewhere has a KDC that says that the service is in another realm
// than krb5.conf or the service's name say.
func TestReferralElsewhere(t *testing.T) {
	keytab, kdc, _, _ := honestKDC(t, true)
	other := " OTHER.TEST = {\n  kdc = " + kdc + "\n }\n"
	for _, test := range []struct{ service, more, want string }{
		{"rcmd", "[domain_realm]\n .example.test = EXAMPLE.TEST\n", "refers to rcmd/gw.example.test@OTHER.TEST, and rcmd/gw.example.test@EXAMPLE.TEST is wanted"},
		{"rcmd@EXAMPLE.TEST", "", "refers to rcmd/gw.example.test@OTHER.TEST, and rcmd/gw.example.test@EXAMPLE.TEST is wanted"},
		{"rcmd/gw@EXAMPLE.TEST", "[domain_realm]\n gw = OTHER.TEST\n", "refers to rcmd/gw@OTHER.TEST, and rcmd/gw@EXAMPLE.TEST is wanted"},
		{"rcmd", "", ""},
		{"rcmd@OTHER.TEST", "", ""},
	} {
		i := &Initiator{Keytab: keytab, Principal: "alice", Config: confOf(t, kdc, other+test.more)}
		c, err := i.Initiate(t.Context(), test.service, "gw.example.test")
		if test.want != "" && !matches(test.want, err) {
			t.Errorf("%s, %q: %v, want %s", test.service, test.more, err, test.want)
		}
		if test.want == "" && (err != nil || c.Peer() != "rcmd/gw.example.test@OTHER.TEST") {
			t.Errorf("%s: %v", test.service, err)
		}
	}
}

func TestServiceNames(t *testing.T) {
	for _, bad := range []string{"rcmd@", "@A", "rcmd/", "/gw", "rcmd/gw/x", "rcmd@A@B", ""} {
		if err := CheckService(bad); !matches(`want a name, as rcmd, or a principal, as rcmd/gw.example.com, with or without @REALM`, err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, good := range []string{"rcmd", "rcmd@A.B", "rcmd/gw", "rcmd/gw@A.B"} {
		if err := CheckService(good); err != nil {
			t.Error(err)
		}
	}
}

// TestSilentKDC has callers with little and with much patience, who share one
// request.
func TestSilentKDC(t *testing.T) {
	keytab, kt := liarKeytab(t, "alice")
	key, _, _ := kt.GetEncryptionKey(types.NewPrincipalName(1, "alice"), liarRealm, 1, 18)
	e, _ := enctypeOf(18)
	session := e.newKey()
	asked, answer := make(chan bool, 100), make(chan bool)
	kdc := liarKDC(t, func(b []byte) []byte {
		asked <- true
		<-answer
		var as messages.ASReq
		if as.Unmarshal(b) == nil {
			return liarAnswer(t, as.ReqBody, as.ReqBody.CName, as.ReqBody.SName.NameString, liarRealm, key, 3, e.newKey(), session, 11)
		}
		var tgs messages.TGSReq
		if err := tgs.Unmarshal(b); err != nil {
			t.Error(err)
		}
		return liarAnswer(t, tgs.ReqBody, types.NewPrincipalName(1, "alice"), tgs.ReqBody.SName.NameString, liarRealm, session, 8, e.newKey(), e.newKey(), 13)
	})
	i := &Initiator{Keytab: keytab, Principal: "alice", Config: confOf(t, kdc, "")}
	first, cancel := context.WithCancel(t.Context())
	failed, good := make(chan error, 1), make(chan error, 3)
	go func() {
		_, err := i.Initiate(first, "rcmd", "localhost")
		failed <- err
	}()
	<-asked
	for range cap(good) {
		go func() {
			_, err := i.Initiate(t.Context(), "rcmd", "localhost")
			good <- err
		}()
	}
	for waiting := 0; waiting < 1+cap(good); time.Sleep(time.Millisecond) {
		i.mu.Lock()
		for _, f := range i.flights {
			waiting = f.waiters
		}
		i.mu.Unlock()
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) || !matches("no answer of the KDC "+kdc+" of EXAMPLE.TEST", err) {
		t.Error(err)
	}
	close(answer)
	for range cap(good) {
		if err := <-good; err != nil {
			t.Error(err)
		}
	}
	if n := 1 + len(asked); n != 2 {
		t.Errorf("the KDC was asked %d times, want a login and a ticket", n)
	}
}

// TestImpatient has nobody left who waits for the KDC.
func TestImpatient(t *testing.T) {
	keytab, _ := liarKeytab(t, "alice")
	kdc := liarKDC(t, func([]byte) []byte { return nil })
	i := &Initiator{Keytab: keytab, Principal: "alice", Config: confOf(t, kdc, "")}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := i.Initiate(ctx, "rcmd", "localhost"); !errors.Is(err, context.DeadlineExceeded) || !matches(kdc+" of EXAMPLE.TEST", err) {
		t.Error(err)
	}
	if len(i.flights) > 0 {
		t.Error("the request goes on")
	}
}

// TestSilentDNS has a resolver that never hears of its server.
func TestSilentDNS(t *testing.T) {
	keytab, _ := liarKeytab(t, "alice")
	old := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		go io.Copy(io.Discard, b)
		return a, nil
	}}
	defer func() { net.DefaultResolver = old }()
	i := &Initiator{Keytab: keytab, Principal: "alice", Config: liarConfig(t, "[libdefaults]\n default_realm = EXAMPLE.TEST\n")}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := i.Initiate(ctx, "rcmd", "localhost")
		done <- err
	}()
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(4 * time.Second): // less than the resolver's patience
		t.Error("the look-up goes on after the context's end")
		<-done
	}
}

// writeCache writes a cache of alice's without tickets.
func writeCache(t *testing.T, path string, notes int) {
	t.Helper()
	b := binary.BigEndian.AppendUint16([]byte{5, 4}, uint16(notes))
	b = append(b, make([]byte, notes)...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, 1)
	for _, s := range []string{liarRealm, "alice"} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestExpiredCacheBesideKeytab wants no new login for each connection, but one
// when the cache has changed.
func TestExpiredCacheBesideKeytab(t *testing.T) {
	keytab, kdc, logins, tickets := honestKDC(t, false)
	t.Setenv("KRB5_CLIENT_KTNAME", keytab)
	cache := filepath.Join(t.TempDir(), "cc")
	i := &Initiator{Cache: cache, Config: confOf(t, kdc, "")}
	for want := int32(1); want <= 3; want++ {
		switch want {
		case 2:
			writeCache(t, cache, 0)
		case 3:
			writeCache(t, cache, 8)
		}
		for range 3 {
			if _, err := i.Initiate(t.Context(), "rcmd", "localhost"); err != nil {
				t.Fatal(err)
			}
		}
		if logins.Load() != want || tickets.Load() != want {
			t.Errorf("%d logins and %d tickets, want %d", logins.Load(), tickets.Load(), want)
		}
	}
}
