package krb5

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/iana/asnAppTag"
	apflags "github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/iana/msgtype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// An Acceptor accepts the tickets of clients. It needs no krb5.conf, only a
// keytab, which it reads again when the file changes: a key that was renewed
// counts from then on, and the older ones as long as the file has them. Its
// fields are not to be changed once it is used.
type Acceptor struct {
	// Keytab is the file with the service's keys; FILE: may be before it.
	// "" is the one that KRB5_KTNAME names, or else /etc/krb5.keytab.
	Keytab string

	// Service is the service that tickets must be for: a name such as rcmd,
	// which stands for rcmd/HOST with every host in the keytab, or one
	// principal, such as rcmd/gw.example.com. With a realm, as in
	// rcmd@EXAMPLE.COM, it must be of that. "" is rcmd (RFC 1961, section 3).
	Service string

	// Skew is by how much a client's clock may differ; 0 is 5 minutes.
	Skew time.Duration

	// Replays, if not nil, is shared with other acceptors.
	Replays *Replays

	// Log is told what the operator should know; nil discards.
	Log *slog.Logger

	mu      sync.Mutex
	loaded  *keys
	trouble string // why the keytab cannot be read now
	own     Replays
}

// defaultSkew is what RFC 4120, section 1.3, finds typical.
const defaultSkew = 5 * time.Minute

func (a *Acceptor) skew() time.Duration { return cmp.Or(a.Skew, defaultSkew) }
func (a *Acceptor) service() string     { return cmp.Or(a.Service, "rcmd") }
func (a *Acceptor) log() *slog.Logger   { return cmp.Or(a.Log, slog.New(slog.DiscardHandler)) }
func (a *Acceptor) replays() *Replays   { return cmp.Or(a.Replays, &a.own) }

// Accept begins a context with a client.
func (a *Acceptor) Accept() *Context {
	c := new(Context)
	c.step = func(token []byte) ([]byte, error) { return a.accept(c, token) }
	return c
}

// accept takes the client's token and makes the answer.
func (a *Acceptor) accept(c *Context, token []byte) ([]byte, error) {
	id, body, err := parseInitial(token)
	if err != nil {
		return nil, err
	}
	if id != tokenRequest {
		return nil, fmt.Errorf("the first token has the identifier %04x, want %04x", uint16(id), uint16(tokenRequest))
	}
	var req messages.APReq
	if err := parseRequest(body, &req); err != nil {
		return nil, err
	}
	ticket, serviceKey, err := a.ticket(&req)
	if err != nil {
		return nil, err
	}
	auth, err := a.authenticator(&req, ticket)
	if err != nil {
		return nil, err
	}
	flags, err := contextFlags(auth.Cksum)
	if err != nil {
		return nil, err
	}
	c.peer = principal(ticket.CName.NameString, ticket.CRealm)
	if c.groups, err = groupsOf(ticket, serviceKey, a.log()); err != nil {
		return nil, err
	}
	key := ticket.Key
	if len(auth.SubKey.KeyValue) > 0 {
		key = auth.SubKey
	}
	etype, err := checkKey(key)
	if err != nil {
		return nil, fmt.Errorf("the client's subkey: %w", err)
	}
	theirs := uint32(auth.SeqNumber)
	if types.IsFlagSet(&req.APOptions, apflags.APOptionMutualRequired) != (flags&flagMutual != 0) {
		return nil, errors.New("the AP-REQ and its authenticator do not agree on mutual authentication")
	}
	if flags&flagMutual == 0 {
		if !a.replays().cover(madeAt(auth), a.skew()) {
			return nil, fmt.Errorf("the token of %s, without mutual authentication, may have been used before the start: "+
				"such tokens are good from %v after it", c.peer, a.skew())
		}
		c.establish(key, true, false, theirs, theirs) // RFC 4121, section 4.1.1
		return nil, nil
	}
	subkey, mine := etype.newKey(), newSequence()
	c.establish(subkey, true, true, mine, theirs)
	return apReply(ticket.Key, auth, subkey, mine)
}

// version is that of Kerberos, in every message.
const version = 5

// parseRequest reads an AP-REQ, with nothing in it that is not known. What is
// not encrypted is not protected either: it must be in the one form that DER
// has for it, which who decodes it does not look at.
func parseRequest(b []byte, req *messages.APReq) error {
	if err := req.Unmarshal(b); err != nil {
		return errors.New("the token has no AP-REQ")
	}
	if again, err := req.Marshal(); err != nil || !bytes.Equal(again, b) {
		return errors.New("the token has a malformed AP-REQ")
	}
	if err := checkLength("the service", req.Ticket.SName, req.Ticket.Realm); err != nil {
		return err
	}
	if req.PVNO != version || req.Ticket.TktVNO != version {
		return fmt.Errorf("the AP-REQ has version %d and a ticket of version %d, want %d", req.PVNO, req.Ticket.TktVNO, version)
	}
	if kvno := req.EncryptedAuthenticator.KVNO; kvno != 0 && kvno != req.Ticket.EncPart.KVNO {
		return fmt.Errorf("the AP-REQ has an authenticator of key version %d, and a ticket of %d", kvno, req.Ticket.EncPart.KVNO)
	}
	mutual, none := types.NewKrbFlags(), types.NewKrbFlags()
	types.SetFlag(&mutual, apflags.APOptionMutualRequired)
	if o := req.APOptions; o.BitLength != 32 || !bytes.Equal(o.Bytes, mutual.Bytes) && !bytes.Equal(o.Bytes, none.Bytes) {
		return fmt.Errorf("the AP-REQ has options %x that are not known", o.Bytes[:min(len(o.Bytes), 4)])
	}
	return nil
}

// ticket decrypts the ticket, says with which key, and looks whether it is good.
func (a *Acceptor) ticket(req *messages.APReq) (part *messages.EncTicketPart, key types.EncryptionKey, err error) {
	t := &req.Ticket
	who := principal(t.SName.NameString, t.Realm)
	if !a.isService(t.SName.NameString, t.Realm) {
		return nil, key, fmt.Errorf("the ticket is for %s, and not for the service %s", who, a.service())
	}
	etype, err := enctypeOf(t.EncPart.EType)
	if err != nil {
		return nil, key, fmt.Errorf("the ticket for %s: %w: let the principal have keys of AES", who, err)
	}
	k, err := a.keys()
	if err != nil {
		return nil, key, err
	}
	found, err := k.find(t.SName.NameString, t.Realm, uint32(t.EncPart.KVNO), etype)
	if err != nil {
		return nil, key, err
	}
	var plain []byte
	for _, key = range found {
		if plain, err = decryptData(key, keyusage.KDC_REP_TICKET, t.EncPart); err == nil {
			break
		}
	}
	if err != nil {
		return nil, key, fmt.Errorf("the ticket for %s cannot be decrypted: it was altered, or keytab %s has another key of version %d: %w",
			who, k.path, t.EncPart.KVNO, err)
	}
	part = new(messages.EncTicketPart)
	if err := part.Unmarshal(plain); err != nil {
		return nil, key, errors.New("malformed ticket")
	}
	if err := checkLength("the client", part.CName, part.CRealm); err != nil {
		return nil, key, err
	}
	if slices.ContainsFunc(append(slices.Clone(part.CName.NameString), part.CRealm), hasControl) {
		return nil, key, fmt.Errorf("the client's name %q has characters that no name should", part.CName.NameString)
	}
	if err := a.inTime(part); err != nil {
		return nil, key, err
	}
	return part, key, checkPath(part, t.Realm)
}

// maxName bounds the length of principals. Those of services come from anybody,
// and end up in the log.
const maxName = 1024

// checkLength returns an error for the name of a principal that is too long.
func checkLength(whose string, name types.PrincipalName, realm string) error {
	size := len(realm)
	for _, component := range name.NameString {
		size += 1 + len(component)
	}
	if size > maxName {
		return fmt.Errorf("the name of %s has %d bytes, want %d at most", whose, size, maxName)
	}
	return nil
}

// short returns the beginning of what may be long.
func short(s string) string { return s[:min(len(s), 256)] }

// hasControl reports whether a name has control characters in it.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// checkPath returns an error for a ticket that is not for use yet, or that has
// come through realms that the KDC has not looked at (RFC 4120, section 2.7).
func checkPath(part *messages.EncTicketPart, realm string) error {
	who := principal(part.CName.NameString, part.CRealm)
	if types.IsFlagSet(&part.Flags, apflags.Invalid) {
		return fmt.Errorf("the ticket of %s is postdated, and was not validated", who)
	}
	if part.CRealm != realm && len(part.Transited.Contents) > 0 && !types.IsFlagSet(&part.Flags, apflags.TransitedPolicyChecked) {
		return fmt.Errorf("the ticket of %s has come through the realms %q, and the KDC has not said that they may be trusted",
			who, short(string(part.Transited.Contents)))
	}
	return nil
}

// inTime returns an error for a ticket that is not good yet, or no longer.
func (a *Acceptor) inTime(part *messages.EncTicketPart) error {
	now := time.Now()
	begin := part.StartTime
	if begin.IsZero() {
		begin = part.AuthTime
	}
	who := principal(part.CName.NameString, part.CRealm)
	switch {
	case now.Add(a.skew()).Before(begin):
		return fmt.Errorf("the ticket of %s is good only from %s, in %v: compare this machine's clock with the KDC's",
			who, format(begin), begin.Sub(now).Round(time.Second))
	case now.Add(-a.skew()).After(part.EndTime):
		return fmt.Errorf("the ticket of %s expired at %s, %v ago: the user should get a new one with kinit, if the clocks are right",
			who, format(part.EndTime), now.Sub(part.EndTime).Round(time.Second))
	}
	return nil
}

func format(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// authenticator decrypts the authenticator and looks whether the client that
// made it is the ticket's, and alive.
func (a *Acceptor) authenticator(req *messages.APReq, ticket *messages.EncTicketPart) (*types.Authenticator, error) {
	who := principal(ticket.CName.NameString, ticket.CRealm)
	plain, err := decryptData(ticket.Key, keyusage.AP_REQ_AUTHENTICATOR, req.EncryptedAuthenticator)
	if err != nil {
		return nil, fmt.Errorf("the authenticator of %s cannot be decrypted: %w", who, err)
	}
	auth := new(types.Authenticator)
	if err := auth.Unmarshal(plain); err != nil {
		return nil, fmt.Errorf("malformed authenticator of %s", who)
	}
	if err := checkLength("who presents the ticket of "+who, auth.CName, auth.CRealm); err != nil {
		return nil, err
	}
	if !auth.CName.Equal(ticket.CName) || auth.CRealm != ticket.CRealm {
		return nil, fmt.Errorf("the ticket of %s was presented by %s", who, principal(auth.CName.NameString, auth.CRealm))
	}
	now := time.Now()
	if off := madeAt(auth).Sub(now); off.Abs() > a.skew() {
		side := "ahead of"
		if off < 0 {
			side = "behind"
		}
		return nil, fmt.Errorf("the clock of %s is %v %s this machine's, %v are allowed: synchronise both",
			who, off.Abs().Round(time.Second), side, a.skew())
	}
	if !a.replays().first(req.EncryptedAuthenticator.Cipher, now, 2*a.skew()) {
		return nil, fmt.Errorf("the token of %s was replayed", who)
	}
	return auth, nil
}

// madeAt returns when the authenticator was made, by its client's clock.
func madeAt(auth *types.Authenticator) time.Time {
	return auth.CTime.Add(time.Duration(auth.Cusec) * time.Microsecond)
}

// Flags of the authenticator's checksum (RFC 4121, section 4.1.1.1).
const (
	flagMutual   = 2
	flagReplay   = 4
	flagSequence = 8
	flagConf     = 16
	flagInteg    = 32
)

const (
	checksumType = 0x8003
	bindingsSize = 16
)

// contextFlags reads the flags. Channel bindings, of which SOCKS has none, and
// delegated credentials, which nobody needs, are not looked at.
func contextFlags(sum types.Checksum) (uint32, error) {
	b := sum.Checksum
	if sum.CksumType != checksumType || len(b) < 4+bindingsSize+4 || binary.LittleEndian.Uint32(b) != bindingsSize {
		return 0, errors.New("the authenticator has no checksum of the GSS-API")
	}
	return binary.LittleEndian.Uint32(b[4+bindingsSize:]), nil
}

// newSequence returns a first sequence number. Old implementations take those
// with the highest bit for negative.
func newSequence() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:]) & 0x3fffffff
}

// apReply makes the token with the AP-REP (RFC 4120, section 5.5.2).
func apReply(session types.EncryptionKey, auth *types.Authenticator, subkey types.EncryptionKey, seq uint32) ([]byte, error) {
	plain, err := asn1.Marshal(messages.EncAPRepPart{
		CTime: auth.CTime, Cusec: auth.Cusec, Subkey: subkey, SequenceNumber: int64(seq),
	})
	if err != nil {
		return nil, err
	}
	part, err := encryptData(session, keyusage.AP_REP_ENCPART, asn1tools.AddASNAppTag(plain, asnAppTag.EncAPRepPart))
	if err != nil {
		return nil, err
	}
	reply, err := marshalReply(messages.APRep{PVNO: version, MsgType: msgtype.KRB_AP_REP, EncPart: part})
	if err != nil {
		return nil, err
	}
	return appendInitial(nil, tokenReply, reply), nil
}

func marshalReply(reply messages.APRep) ([]byte, error) {
	b, err := asn1.Marshal(reply)
	return asn1tools.AddASNAppTag(b, asnAppTag.APREP), err
}
