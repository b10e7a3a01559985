package krb5

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/iana/patype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// agent asks KDCs for tickets, over TCP, which all of them speak (RFC 4120,
// section 7.2).
type agent struct {
	*settings
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	asking atomic.Pointer[string] // whom, for errors of those who wait
}

// login gets a ticket-granting ticket by a key (RFC 4120, section 3.1), with
// pre-authentication, which nearly every KDC wants.
func (a *agent) login(ctx context.Context, client who, key *keyEntry) (*ticket, error) {
	req, err := messages.NewASReqForTGT(client.realm, a.Config, client.name)
	if err != nil {
		return nil, err
	}
	stamp, err := types.GetPAEncTSEncAsnMarshalled()
	if err != nil {
		return nil, err
	}
	data, err := encryptData(key.key, keyusage.AS_REQ_PA_ENC_TIMESTAMP, stamp)
	if err != nil {
		return nil, err
	}
	data.KVNO = int(key.kvno)
	proof, err := asn1.Marshal(data)
	if err != nil {
		return nil, err
	}
	req.PAData = types.PADataSequence{{PADataType: patype.PA_ENC_TIMESTAMP, PADataValue: proof}}
	req.ReqBody.EType = preferring(req.ReqBody.EType, key.key.KeyType)
	b, err := req.Marshal()
	if err != nil {
		return nil, err
	}
	answer, err := a.ask(ctx, client.realm, b)
	if err != nil {
		return nil, fmt.Errorf("login of %s: %w", client, err)
	}
	var reply messages.ASRep
	if err := reply.Unmarshal(answer); err != nil {
		return nil, fmt.Errorf("login of %s: malformed answer of the KDC", client)
	}
	t, err := accepted(&reply.KDCRepFields, &req.ReqBody, key.key, keyusage.AS_REP_ENCPART, client)
	if err != nil {
		return nil, err
	}
	// The request is protected by nothing: somebody in between may have asked
	// for a ticket to another realm, whose services are not those that are meant.
	if t.realm != client.realm || !slices.Equal(t.server, []string{"krbtgt", client.realm}) {
		return nil, fmt.Errorf("login of %s: the KDC has given a ticket for %s, which was not asked for", client, principal(t.server, t.realm))
	}
	return t, nil
}

// preferring puts the type of the key that we have first: the answer is
// encrypted with it.
func preferring(ids []int32, first int32) []int32 {
	return append([]int32{first}, slices.DeleteFunc(slices.Clone(ids), func(id int32) bool { return id == first })...)
}

// maxReferrals is by how many realms the way to a service may lead.
const maxReferrals = 5

// service gets a ticket for a service (RFC 4120, section 3.3). If realm is "",
// the user's KDC says where the service is, by referrals (RFC 6806, section 8);
// else they must lead to that realm.
func (a *agent) service(ctx context.Context, client who, tgt *ticket, name []string, realm string) (*ticket, error) {
	if tgt == nil {
		return nil, fmt.Errorf("the credential cache has no ticket for %s, nor one to get it with: get one with kinit", principal(name, realm))
	}
	if realm != "" && realm != client.realm {
		// The user's KDC knows the way.
		next, err := a.ticketFor(ctx, client, tgt, []string{"krbtgt", realm}, client.realm)
		if err != nil {
			return nil, err
		}
		tgt = next
	}
	for range maxReferrals {
		at := tgt.server[len(tgt.server)-1] // the realm that it is good in
		t, err := a.ticketFor(ctx, client, tgt, name, at)
		if err != nil {
			return nil, err
		}
		if len(t.server) != 2 || t.server[0] != "krbtgt" {
			if realm != "" && t.realm != realm {
				return nil, fmt.Errorf("the KDC refers to %s, and %s is wanted", principal(t.server, t.realm), principal(name, realm))
			}
			return t, nil
		}
		tgt = t
	}
	return nil, fmt.Errorf("more than %d referrals on the way to %s", maxReferrals, principal(name, realm))
}

// ticketFor asks the KDC of a realm for one ticket.
func (a *agent) ticketFor(ctx context.Context, client who, tgt *ticket, name []string, realm string) (*ticket, error) {
	fail := func(err error) (*ticket, error) {
		return nil, fmt.Errorf("ticket for %s: %w", principal(name, realm), err)
	}
	kind := nametype.KRB_NT_SRV_HST
	if name[0] == "krbtgt" {
		kind = nametype.KRB_NT_SRV_INST
	}
	req, err := messages.NewTGSReq(client.name, realm, a.Config, tgt.Ticket, tgt.session, types.PrincipalName{NameType: kind, NameString: name}, false)
	if err != nil {
		return fail(err)
	}
	if name[0] != "krbtgt" {
		types.SetFlag(&req.ReqBody.KDCOptions, flags.Canonicalize) // asks for referrals
	}
	// Its own authenticator takes the realm of the ticket for the client's.
	if err := prove(&req, client, tgt); err != nil {
		return fail(err)
	}
	b, err := req.Marshal()
	if err != nil {
		return fail(err)
	}
	answer, err := a.ask(ctx, realm, b)
	if err != nil {
		return fail(err)
	}
	var reply messages.TGSRep
	if err := reply.Unmarshal(answer); err != nil {
		return fail(errors.New("malformed answer of the KDC"))
	}
	t, err := accepted(&reply.KDCRepFields, &req.ReqBody, tgt.session, keyusage.TGS_REP_ENCPART_SESSION_KEY, client)
	if err != nil {
		return fail(err)
	}
	referral := len(t.server) == 2 && t.server[0] == "krbtgt"
	if t.realm != realm || !referral && !slices.Equal(t.server, name) {
		return fail(fmt.Errorf("the KDC has given one for %s", principal(t.server, t.realm)))
	}
	return t, nil
}

// prove puts the ticket-granting ticket into a request, with an authenticator
// over its body (RFC 4120, section 5.4.1).
func prove(req *messages.TGSReq, client who, tgt *ticket) error {
	etype, err := checkKey(tgt.session)
	if err != nil {
		return err
	}
	body, err := req.ReqBody.Marshal()
	if err != nil {
		return err
	}
	sums, err := newSummer(tgt.session, keyusage.TGS_REQ_PA_TGS_REQ_AP_REQ_AUTHENTICATOR_CHKSUM)
	if err != nil {
		return err
	}
	auth := newAuthenticator(client)
	auth.SeqNumber = int64(newSequence())
	auth.Cksum = types.Checksum{CksumType: etype.checksumID(), Checksum: sums.checksum(body)}
	ap, err := apRequest(tgt, auth, keyusage.TGS_REQ_PA_TGS_REQ_AP_REQ_AUTHENTICATOR)
	if err != nil {
		return err
	}
	proof, err := ap.Marshal()
	if err != nil {
		return err
	}
	req.PAData = types.PADataSequence{{PADataType: patype.PA_TGS_REQ, PADataValue: proof}}
	return nil
}

// accepted returns the ticket in an answer that belongs to a request.
func accepted(reply *messages.KDCRepFields, body *messages.KDCReqBody, key types.EncryptionKey, usage uint32, client who) (*ticket, error) {
	plain, err := decryptData(key, usage, reply.EncPart)
	if err != nil {
		return nil, fmt.Errorf("answer of the KDC: %w", err)
	}
	var part messages.EncKDCRepPart
	if err := part.Unmarshal(plain); err != nil {
		return nil, errors.New("malformed answer of the KDC")
	}
	if part.Nonce != body.Nonce || !reply.CName.Equal(client.name) || reply.CRealm != client.realm {
		return nil, errors.New("the answer of the KDC is to another request")
	}
	if !part.SName.Equal(reply.Ticket.SName) || part.SRealm != reply.Ticket.Realm || len(part.SName.NameString) == 0 {
		return nil, errors.New("the answer of the KDC does not say what its ticket is for")
	}
	if _, err := checkKey(part.Key); err != nil {
		return nil, fmt.Errorf("session key: %w", err)
	}
	return &ticket{
		Ticket: reply.Ticket, server: part.SName.NameString, realm: part.SRealm,
		session: part.Key, end: part.EndTime, got: time.Now(),
	}, nil
}

// kdcTimeout bounds the time for one KDC, so that another can be asked.
const kdcTimeout = 5 * time.Second

// maxAnswer bounds what a KDC may say: a ticket with the groups of a user who
// is in thousands takes 64 KiB.
const maxAnswer = 1 << 20

// ask sends a request to the KDCs of a realm, one after the other until one
// answers. A refusal is an answer, but of one that is behind.
func (a *agent) ask(ctx context.Context, realm string, req []byte) ([]byte, error) {
	asking := "the KDC of " + realm
	a.asking.Store(&asking)
	kdcs, err := a.kdcs(ctx, realm)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, kdc := range kdcs {
		asking := fmt.Sprintf("the KDC %s of %s", kdc, realm)
		a.asking.Store(&asking)
		answer, err := a.askOne(ctx, kdc, req)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", kdc, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		var refusal messages.KRBError
		if refusal.Unmarshal(answer) == nil {
			return nil, explain(refusal)
		}
		return answer, nil
	}
	return nil, fmt.Errorf("no KDC of %s answers: %w", realm, errors.Join(errs...))
}

func (a *agent) askOne(ctx context.Context, kdc string, req []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, kdcTimeout)
	defer cancel()
	dial := a.dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", kdc)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(req))), req...)); err != nil {
		return nil, cmp.Or(ctx.Err(), err)
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, cmp.Or(ctx.Err(), err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxAnswer {
		return nil, fmt.Errorf("an answer of %d bytes", n)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, cmp.Or(ctx.Err(), err)
	}
	return answer, nil
}

// hints are what to do about errors that users meet (RFC 4120, section 7.5.9).
var hints = map[int32]string{
	errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN: "the KDC does not know the user",
	errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN: "the KDC does not know the service: is the proxy's host written as in its principal? An option service=rcmd/NAME names another",
	errorcode.KDC_ERR_PREAUTH_FAILED:      "the key is not the user's: was the password changed after the keytab was made?",
	errorcode.KDC_ERR_ETYPE_NOSUPP:        "the KDC has no key of these types",
	errorcode.KDC_ERR_CLIENT_REVOKED:      "the user is locked",
	errorcode.KDC_ERR_KEY_EXPIRED:         "the password has expired",
	errorcode.KRB_AP_ERR_TKT_EXPIRED:      "the ticket has expired: get a new one with kinit",
	errorcode.KRB_AP_ERR_SKEW:             "the clocks differ too much: synchronise this machine's",
	errorcode.KRB_AP_ERR_BADKEYVER:        "the service has no key of that version: get new tickets with kinit",
	errorcode.KRB_AP_ERR_REPEAT:           "the request was replayed",
	errorcode.KRB_AP_ERR_MODIFIED:         "the service has another key",
}

// explain turns a refusal into an error that says what to do.
func explain(refusal messages.KRBError) error {
	text := errorcode.Lookup(refusal.ErrorCode)
	if hint := hints[refusal.ErrorCode]; hint != "" {
		return fmt.Errorf("%s (%s)", hint, text)
	}
	if refusal.EText != "" {
		return fmt.Errorf("%s: %.200q", text, refusal.EText)
	}
	return errors.New(text)
}
