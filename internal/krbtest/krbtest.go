// Package krbtest makes keytabs and tickets without a KDC, for tests: good
// ones, and every kind of bad one.
package krbtest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// A Token says what is in the first token of an initiator. What is not said is
// as it should be: alice of EXAMPLE.TEST, who has an hour's ticket for
// rcmd/localhost, made with version 1 of the key of type 18 of that service.
type Token struct {
	Client   string // "alice@EXAMPLE.TEST"
	Service  string // "rcmd/localhost@EXAMPLE.TEST"
	Password string // that the service's key is made of
	Etype    int32
	KVNO     int
	Begin    time.Duration // of the ticket's time, from now
	End      time.Duration
	Skew     time.Duration // by how much the client's clock is ahead

	Presenter string // who makes the authenticator, if not Client
	NotMutual bool
	Checksum  []byte // in place of that of the GSS-API
}

// Password is what keys are made of.
const Password = "everybody knows"

// Keytab writes a keytab with keys of the services, each of version 1 and of
// the types 17 to 20.
func Keytab(t testing.TB, services ...string) string {
	t.Helper()
	kt := keytab.New()
	for _, service := range services {
		for etype := int32(17); etype <= 20; etype++ {
			add(t, kt, service, Password, etype, 1)
		}
	}
	return write(t, kt)
}

// Key is one key of a keytab.
type Key struct {
	Service, Password string
	Etype             int32
	KVNO              int
}

// KeytabOf writes a keytab with these keys.
func KeytabOf(t testing.TB, keys ...Key) string {
	t.Helper()
	kt := keytab.New()
	for _, k := range keys {
		add(t, kt, k.Service, k.Password, k.Etype, k.KVNO)
	}
	return write(t, kt)
}

func add(t testing.TB, kt *keytab.Keytab, service, password string, etype int32, kvno int) {
	t.Helper()
	name, realm, _ := strings.Cut(service, "@")
	if err := kt.AddEntry(name, realm, password, time.Unix(int64(1e9+kvno), 0), uint8(kvno), etype); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, kt *keytab.Keytab) string {
	t.Helper()
	b, err := kt.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keytab")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Make makes the token.
func (w Token) Make(t testing.TB) []byte {
	t.Helper()
	client, crealm := split(orElse(w.Client, "alice@EXAMPLE.TEST"))
	service := orElse(w.Service, "rcmd/localhost@EXAMPLE.TEST")
	sname, srealm := split(service)
	etype, kvno := orElse(w.Etype, 18), orElse(w.KVNO, 1)
	kt := keytab.New()
	add(t, kt, service, orElse(w.Password, Password), etype, kvno)
	now := time.Now().UTC().Truncate(time.Second)
	begin, end := now.Add(w.Begin), now.Add(orElse(w.End, time.Hour))
	ticket, session, err := messages.NewTicket(client, crealm, sname, srealm, types.NewKrbFlags(), kt, etype, kvno, begin, begin, end, end)
	if err != nil {
		t.Fatal(err)
	}
	if etype == 20 { // gokrb5 makes keys of 24 bytes for it
		t.Fatal("krbtest makes no tickets of type 20")
	}
	presenter, prealm := client, crealm
	if w.Presenter != "" {
		presenter, prealm = split(w.Presenter)
	}
	auth, err := types.NewAuthenticator(prealm, presenter)
	if err != nil {
		t.Fatal(err)
	}
	auth.CTime = auth.CTime.Add(w.Skew)
	auth.Cksum = types.Checksum{CksumType: 0x8003, Checksum: w.checksum()}
	req, err := messages.NewAPReq(ticket, session, auth)
	if err != nil {
		t.Fatal(err)
	}
	if !w.NotMutual {
		types.SetFlag(&req.APOptions, flags.APOptionMutualRequired)
	}
	body, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return Frame(body)
}

func (w Token) checksum() []byte {
	if w.Checksum != nil {
		return w.Checksum
	}
	flags := uint32(2 | 4 | 8 | 16 | 32)
	if w.NotMutual {
		flags &^= 2
	}
	b := binary.LittleEndian.AppendUint32(nil, 16)
	return binary.LittleEndian.AppendUint32(append(b, make([]byte, 16)...), flags)
}

func split(principal string) (name types.PrincipalName, realm string) {
	s, realm, _ := strings.Cut(principal, "@")
	return types.NewPrincipalName(1, s), realm
}

// Frame makes a token of an AP-REQ.
func Frame(apReq []byte) []byte {
	body := append([]byte("\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x01\x00"), apReq...)
	return append([]byte{0x60, 0x82, byte(len(body) >> 8), byte(len(body))}, body...)
}

// ShortCiphers returns tokens whose encrypted parts are shorter than any can
// be, which other programs do not survive.
func ShortCiphers(t testing.TB) (tokens [][]byte) {
	t.Helper()
	name, realm := split("rcmd/localhost@EXAMPLE.TEST")
	for _, size := range []int{0, 1, 5, 12, 27} {
		for _, inTicket := range []bool{true, false} {
			kt := keytab.New()
			add(t, kt, "rcmd/localhost@EXAMPLE.TEST", Password, 18, 1)
			client, crealm := split("alice@EXAMPLE.TEST")
			now := time.Now().UTC()
			ticket, session, err := messages.NewTicket(client, crealm, name, realm, types.NewKrbFlags(), kt, 18, 1, now, now, now.Add(time.Hour), now.Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			auth, err := types.NewAuthenticator(crealm, client)
			if err != nil {
				t.Fatal(err)
			}
			req, err := messages.NewAPReq(ticket, session, auth)
			if err != nil {
				t.Fatal(err)
			}
			if inTicket {
				req.Ticket.EncPart.Cipher = make([]byte, size)
			} else {
				req.EncryptedAuthenticator.Cipher = make([]byte, size)
			}
			body, err := req.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			tokens = append(tokens, Frame(body))
		}
	}
	return tokens
}
