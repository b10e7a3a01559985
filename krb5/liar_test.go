package krb5

import (
	"cmp"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/iana/asnAppTag"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

const (
	liarRealm    = "EXAMPLE.TEST"
	liarPassword = "pw"
)

// liarKeytab has the keys of names.
func liarKeytab(t *testing.T, names ...string) (string, *keytab.Keytab) {
	kt := keytab.New()
	for _, n := range names {
		if err := kt.AddEntry(n, liarRealm, liarPassword, time.Now(), 1, 18); err != nil {
			t.Fatal(err)
		}
	}
	b, _ := kt.Marshal()
	path := filepath.Join(t.TempDir(), "kt")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, kt
}

// liarKDC answers as handle says.
func liarKDC(t *testing.T, handle func(req []byte) []byte) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var size [4]byte
				if _, err := io.ReadFull(c, size[:]); err != nil {
					return
				}
				b := make([]byte, binary.BigEndian.Uint32(size[:]))
				io.ReadFull(c, b)
				out := handle(b)
				if out == nil {
					io.Copy(io.Discard, c)
					return
				}
				c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(out))), out...))
			}()
		}
	}()
	return ln.Addr().String()
}

func liarConfig(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "krb5.conf")
	os.WriteFile(path, []byte(text), 0o600)
	return path
}

// liarAnswer makes an answer to a request.
func liarAnswer(t *testing.T, body messages.KDCReqBody, cname types.PrincipalName, sname []string, srealm string, replyKey types.EncryptionKey, usage uint32, tktKey, session types.EncryptionKey, msgType int) []byte {
	now := time.Now().UTC().Truncate(time.Second)
	sn := types.PrincipalName{NameType: 2, NameString: sname}
	tp := messages.EncTicketPart{Flags: types.NewKrbFlags(), Key: session, CRealm: liarRealm, CName: cname, AuthTime: now, StartTime: now, EndTime: now.Add(time.Hour), RenewTill: now.Add(time.Hour)}
	b, err := asn1.Marshal(tp)
	if err != nil {
		t.Error(err)
	}
	ed, err := encryptData(tktKey, 2, asn1tools.AddASNAppTag(b, asnAppTag.EncTicketPart))
	if err != nil {
		t.Error(err)
	}
	ed.KVNO = 1
	tkt := messages.Ticket{TktVNO: 5, Realm: srealm, SName: sn, EncPart: ed}
	ep := messages.EncKDCRepPart{Key: session, LastReqs: []messages.LastReq{{LRType: 0, LRValue: now}}, Nonce: body.Nonce, Flags: types.NewKrbFlags(), AuthTime: now, StartTime: now, EndTime: now.Add(time.Hour), RenewTill: now.Add(time.Hour), SRealm: srealm, SName: sn}
	epb, err := ep.Marshal()
	if err != nil {
		t.Error(err)
	}
	red, err := encryptData(replyKey, usage, epb)
	if err != nil {
		t.Error(err)
	}
	f := messages.KDCRepFields{PVNO: 5, MsgType: msgType, CRealm: liarRealm, CName: cname, Ticket: tkt, EncPart: red}
	if msgType == 11 {
		r := messages.ASRep{KDCRepFields: f}
		out, err := r.Marshal()
		if err != nil {
			t.Error(err)
		}
		return out
	}
	r := messages.TGSRep{KDCRepFields: f}
	out, err := r.Marshal()
	if err != nil {
		t.Error(err)
	}
	return out
}

// A login is protected by nothing: somebody in between who asks for a ticket to
// another realm, which the user's trusts, must not become the service.
func TestRedirectedLogin(t *testing.T) {
	path, kt := liarKeytab(t, "alice")
	aliceKey, _, err := kt.GetEncryptionKey(types.NewPrincipalName(1, "alice"), liarRealm, 1, 18)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := enctypeOf(18)
	trust := e.newKey()   // of krbtgt/EVIL.TEST@EXAMPLE.TEST, which EVIL has
	session := e.newKey() // EVIL finds it in the ticket
	good := liarKDC(t, func(b []byte) []byte {
		var as messages.ASReq
		if err := as.Unmarshal(b); err != nil {
			t.Error("good KDC is asked for something else", err)
			return nil
		}
		// as altered on the way:
		as.ReqBody.SName = types.PrincipalName{NameType: 2, NameString: []string{"krbtgt", "EVIL.TEST"}}
		return liarAnswer(t, as.ReqBody, as.ReqBody.CName, as.ReqBody.SName.NameString, liarRealm, aliceKey, 3, trust, session, 11)
	})
	evilSession := e.newKey()
	var asked atomic.Bool
	evil := liarKDC(t, func(b []byte) []byte {
		asked.Store(true)
		var tgs messages.TGSReq
		if err := tgs.Unmarshal(b); err != nil {
			t.Error(err)
			return nil
		}
		return liarAnswer(t, tgs.ReqBody, types.NewPrincipalName(1, "alice"), tgs.ReqBody.SName.NameString, "EVIL.TEST", session, 8, e.newKey(), evilSession, 13)
	})
	conf := liarConfig(t, "[libdefaults]\n default_realm = EXAMPLE.TEST\n dns_lookup_kdc = false\n[realms]\n EXAMPLE.TEST = {\n  kdc = "+good+"\n }\n EVIL.TEST = {\n  kdc = "+evil+"\n }\n[domain_realm]\n localhost = EXAMPLE.TEST\n")
	i := &Initiator{Keytab: path, Principal: "alice", Config: conf}
	c, err := i.Initiate(t.Context(), "rcmd", "localhost")
	if err == nil {
		t.Errorf("krb5.conf says that localhost is in EXAMPLE.TEST, and the login was redirected to EVIL.TEST (asked %v); the client has a context with %s", asked.Load(), c.Peer())
	}
}

// An answer that does not say what its ticket is for is refused.
func TestAnswerWithoutName(t *testing.T) {
	path, kt := liarKeytab(t, "alice")
	aliceKey, _, _ := kt.GetEncryptionKey(types.NewPrincipalName(1, "alice"), liarRealm, 1, 18)
	e, _ := enctypeOf(18)
	kdc := liarKDC(t, func(b []byte) []byte {
		var as messages.ASReq
		if err := as.Unmarshal(b); err != nil {
			return nil
		}
		return liarAnswer(t, as.ReqBody, as.ReqBody.CName, nil, liarRealm, aliceKey, 3, e.newKey(), e.newKey(), 11)
	})
	conf := liarConfig(t, "[libdefaults]\n default_realm = EXAMPLE.TEST\n dns_lookup_kdc = false\n[realms]\n EXAMPLE.TEST = {\n  kdc = "+kdc+"\n }\n")
	i := &Initiator{Keytab: path, Principal: "alice", Config: conf}
	if _, err := i.Initiate(t.Context(), "rcmd", "localhost"); err == nil {
		t.Error("a ticket for nothing is taken")
	}
}

// Every bit of the filler of a MIC counts.
func TestMICFiller(t *testing.T) {
	for bit := 0; bit < 32; bit++ {
		i, a := establishedPair(t)
		tok, _ := i.MIC(nil, []byte("hello"))
		tok[4+bit/8] ^= 1 << (bit % 8)
		if a.VerifyMIC([]byte("hello"), tok, true) == nil {
			t.Errorf("MIC with bit %d of the filler flipped is accepted", bit)
			break
		}
	}
}

// A PAC that nobody has signed yet is not believed about how much room it needs.
func TestPACAllocates(t *testing.T) {
	pacBytes := binary.LittleEndian.AppendUint32(nil, 1<<26) // cBuffers
	pacBytes = binary.LittleEndian.AppendUint32(pacBytes, 0)
	inner, err := asn1.Marshal(types.AuthorizationData{{ADType: 128, ADData: pacBytes}})
	if err != nil {
		t.Fatal(err)
	}
	tick := &messages.EncTicketPart{AuthorizationData: types.AuthorizationData{{ADType: 1, ADData: inner}}}
	e, _ := enctypeOf(18)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = groupsOf(tick, e.newKey(), slog.New(slog.DiscardHandler))
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("a PAC of 8 bytes without a signature allocates %d MiB", got>>20)
	}
}

func establishedPair(t *testing.T) (i, a *Context) {
	t.Helper()
	e, _ := enctypeOf(18)
	k := e.newKey()
	i, a = new(Context), new(Context)
	i.establish(k, false, true, 100, 200)
	a.establish(k, true, true, 200, 100)
	return
}

// oneRealm is a krb5.conf with one KDC.
func oneRealm(t *testing.T, kdc, more string) string {
	return liarConfig(t, "[libdefaults]\n default_realm = EXAMPLE.TEST\n dns_lookup_kdc = false\n[realms]\n EXAMPLE.TEST = {\n  kdc = "+kdc+"\n }\n"+more)
}

// aliceKDC gives alice tickets, and counts what it is asked for.
type aliceKDC struct {
	logins, tickets atomic.Int32
	realm           string // of the services; "" is alice's
}

func (k *aliceKDC) start(t *testing.T, kt *keytab.Keytab) string {
	key, _, err := kt.GetEncryptionKey(types.NewPrincipalName(1, "alice"), liarRealm, 1, 18)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := enctypeOf(18)
	session := e.newKey()
	return liarKDC(t, func(b []byte) []byte {
		var as messages.ASReq
		if as.Unmarshal(b) == nil {
			k.logins.Add(1)
			return liarAnswer(t, as.ReqBody, as.ReqBody.CName, as.ReqBody.SName.NameString, liarRealm, key, 3, e.newKey(), session, 11)
		}
		var tgs messages.TGSReq
		if err := tgs.Unmarshal(b); err != nil {
			t.Error(err)
			return nil
		}
		k.tickets.Add(1)
		return liarAnswer(t, tgs.ReqBody, types.NewPrincipalName(1, "alice"), tgs.ReqBody.SName.NameString, cmp.Or(k.realm, liarRealm), session, 8, e.newKey(), e.newKey(), 13)
	})
}

// Callers share what the KDC says, and have it at once when it is there.
func TestSharedTickets(t *testing.T) {
	path, kt := liarKeytab(t, "alice")
	kdc := new(aliceKDC)
	i := &Initiator{Keytab: path, Config: oneRealm(t, kdc.start(t, kt), "")}
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			c, err := i.Initiate(t.Context(), "rcmd", "localhost")
			if err != nil {
				t.Error(err)
			} else if c.Peer() != "rcmd/localhost@EXAMPLE.TEST" {
				t.Errorf("the peer is %s", c.Peer())
			}
		})
	}
	callers.Wait()
	if logins, tickets := kdc.logins.Load(), kdc.tickets.Load(); logins != 1 || tickets != 1 {
		t.Errorf("20 callers make %d logins and get %d tickets", logins, tickets)
	}
}

// A ticket must be of the realm that is named for the service.
func TestServiceRealm(t *testing.T) {
	path, kt := liarKeytab(t, "alice")
	kdc := &aliceKDC{realm: "EVIL.TEST"}
	address := kdc.start(t, kt)
	for service, conf := range map[string]string{
		"rcmd":                        oneRealm(t, address, "[domain_realm]\n localhost = EXAMPLE.TEST\n"),
		"rcmd@EXAMPLE.TEST":           oneRealm(t, address, ""),
		"rcmd/localhost@EXAMPLE.TEST": oneRealm(t, address, ""),
	} {
		i := &Initiator{Keytab: path, Config: conf}
		if c, err := i.Initiate(t.Context(), service, "localhost"); err == nil {
			t.Errorf("%s: a context with %s", service, c.Peer())
		}
	}
	if kdc.tickets.Load() == 0 {
		t.Error("the KDC was not asked")
	}
}

// Nor may a referral lead from the realm that is named to another.
func TestReferredElsewhere(t *testing.T) {
	path, kt := liarKeytab(t, "alice")
	key, _, err := kt.GetEncryptionKey(types.NewPrincipalName(1, "alice"), liarRealm, 1, 18)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := enctypeOf(18)
	session, referred := e.newKey(), e.newKey()
	alice := types.NewPrincipalName(1, "alice")
	home := liarKDC(t, func(b []byte) []byte {
		var as messages.ASReq
		if as.Unmarshal(b) == nil {
			return liarAnswer(t, as.ReqBody, alice, as.ReqBody.SName.NameString, liarRealm, key, 3, e.newKey(), session, 11)
		}
		var tgs messages.TGSReq
		if err := tgs.Unmarshal(b); err != nil {
			t.Error(err)
		}
		return liarAnswer(t, tgs.ReqBody, alice, []string{"krbtgt", "EVIL.TEST"}, liarRealm, session, 8, e.newKey(), referred, 13)
	})
	evil := liarKDC(t, func(b []byte) []byte {
		var tgs messages.TGSReq
		if err := tgs.Unmarshal(b); err != nil {
			t.Error(err)
		}
		return liarAnswer(t, tgs.ReqBody, alice, tgs.ReqBody.SName.NameString, "EVIL.TEST", referred, 8, e.newKey(), e.newKey(), 13)
	})
	more := "[realms]\n EVIL.TEST = { kdc = " + evil + " }\n"
	i := &Initiator{Keytab: path, Config: oneRealm(t, home, more)}
	c, err := i.Initiate(t.Context(), "rcmd", "localhost")
	if err != nil || c.Peer() != "rcmd/localhost@EVIL.TEST" {
		t.Fatalf("where nothing is said: %v", err)
	}
	i = &Initiator{Keytab: path, Config: oneRealm(t, home, more+"[domain_realm]\n localhost = EXAMPLE.TEST\n")}
	if _, err = i.Initiate(t.Context(), "rcmd", "localhost"); err == nil || !strings.Contains(err.Error(), "rcmd/localhost@EVIL.TEST") {
		t.Errorf("got %v", err)
	}
}
