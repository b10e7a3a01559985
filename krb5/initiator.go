package krb5

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/iana/asnAppTag"
	"github.com/jcmturner/gokrb5/v8/iana/flags"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/iana/msgtype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// An Initiator shows services who the user is. Without a keytab it uses the
// user's credential cache, as kinit leaves it, and reads it again when it
// changes; with one it gets its tickets by itself, which suits services.
// Its fields are not to be changed once it is used.
type Initiator struct {
	// Cache is the name of the credential cache: a file, with FILE: or
	// without, or DIR: and a directory. "" is the one that KRB5CCNAME names,
	// or krb5.conf, or else FILE:/tmp/krb5cc_UID. If it has no ticket and
	// KRB5_CLIENT_KTNAME names a keytab, that is used.
	Cache string

	// Keytab, if not "", is the file with the user's keys, and Principal
	// whose: "" is the first one in the file.
	Keytab, Principal string

	// Config is the krb5.conf to read, or several after each other with
	// colons between; "" is what KRB5_CONFIG names, or /etc/krb5.conf.
	Config string

	// DialContext connects to KDCs; nil is that of a [net.Dialer].
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// Log is told of lines in krb5.conf that are left out; nil discards it.
	Log *slog.Logger

	mu       sync.Mutex // guards what follows, and is held while nobody waits
	settings *settings
	cached   *cache
	path     string             // of cached
	info     os.FileInfo        // of cached
	got      map[string]*ticket // by principal: those that the KDC gave
	flights  map[string]*flight // by principal: those that it is asked for
}

// Initiate begins a context with a service, which is on host unless it is
// written as rcmd/gw.example.com. With @REALM at its end, the service must be of
// that realm. It gets a ticket, which may take a word with the KDC. The first
// step of the context gives the token for the service.
func (i *Initiator) Initiate(ctx context.Context, service, host string) (*Context, error) {
	t, client, err := i.ticket(ctx, service, host)
	if err != nil {
		return nil, fmt.Errorf("kerberos: %w", err)
	}
	c := &Context{peer: principal(t.server, t.realm)}
	c.step = func([]byte) ([]byte, error) { return initiate(c, t, client) }
	return c, nil
}

// CheckService reports what is wrong with the name of a service as [Initiator]
// takes it.
func CheckService(service string) error {
	_, _, err := parseService(service, "localhost")
	return err
}

// parseService returns the principal of a service on a host; its realm is "" if
// it is not said.
func parseService(service, host string) (name []string, realm string, err error) {
	text, realm, hasRealm := strings.Cut(service, "@")
	name = strings.Split(text, "/")
	if slices.Contains(name, "") || len(name) > 2 || hasRealm && (realm == "" || strings.Contains(realm, "@")) {
		return nil, "", fmt.Errorf("service %q, want a name, as rcmd, or a principal, as rcmd/gw.example.com, with or without @REALM", service)
	}
	if len(name) == 1 {
		name = append(name, strings.ToLower(strings.TrimSuffix(host, ".")))
	}
	return name, realm, nil
}

// who is a client.
type who struct {
	name  types.PrincipalName
	realm string
}

func (w who) String() string { return principal(w.name.NameString, w.realm) }

// ticket returns a ticket for the service.
func (i *Initiator) ticket(ctx context.Context, service, host string) (*ticket, who, error) {
	name, realm, err := parseService(service, host)
	if err != nil {
		return nil, who{}, err
	}
	s, err := i.config()
	if err != nil {
		return nil, who{}, err
	}
	agent := &agent{settings: s, dial: i.DialContext}
	client, tgt, cached, err := i.credentials(ctx, agent)
	if err != nil {
		return nil, who{}, err
	}
	realm = cmp.Or(realm, s.realmOf(name[1]))
	if cached != nil {
		if t := cached.find(name, realm); t != nil {
			return t, client, nil
		}
	}
	t, err := i.shared(ctx, agent, principal(name, realm)+" "+client.String(), func(ctx context.Context) (*ticket, error) {
		return agent.service(ctx, client, tgt, name, realm)
	})
	return t, client, err
}

func (i *Initiator) config() (*settings, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.settings == nil {
		log := i.Log
		if log == nil {
			log = slog.New(slog.DiscardHandler)
		}
		s, err := loadSettings(cmp.Or(i.Config, os.Getenv("KRB5_CONFIG"), "/etc/krb5.conf"), log)
		if err != nil {
			return nil, err
		}
		i.settings = s
	}
	return i.settings, nil
}

// credentials returns who the client is, its ticket-granting ticket, which may
// be nil if the cache has tickets for services only, and the cache, if it is used.
func (i *Initiator) credentials(ctx context.Context, a *agent) (who, *ticket, *cache, error) {
	if i.Keytab != "" {
		client, tgt, err := i.login(ctx, a, i.Keytab)
		return client, tgt, nil, err
	}
	c, err := i.readCache(a.settings)
	if err == nil {
		client := who{c.client, c.realm}
		tgt := c.find([]string{"krbtgt", client.realm}, client.realm)
		if tgt != nil || slices.ContainsFunc(c.tickets, (*ticket).good) {
			return client, tgt, c, nil
		}
		err = fmt.Errorf("the tickets of %s in the credential cache have expired: get a new one with kinit", client)
	}
	if path := os.Getenv("KRB5_CLIENT_KTNAME"); path != "" {
		client, tgt, err := i.login(ctx, a, path)
		return client, tgt, nil, err
	}
	return who{}, nil, nil, err
}

// readCache reads the credential cache if it has changed. What was got by
// another one is forgotten: it may be another user's.
func (i *Initiator) readCache(s *settings) (*cache, error) {
	path, err := cachePath(cmp.Or(i.Cache, cacheName(s)))
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	info, err := os.Stat(path)
	if err != nil {
		info = nil
	}
	if path != i.path || !unchanged(i.info, info) {
		i.cached, i.got, i.flights = nil, nil, nil
		i.path, i.info = path, info
	}
	if i.cached == nil {
		i.cached, _, err = loadCache(path)
		return i.cached, err
	}
	return i.cached, nil
}

// unchanged reports whether a file is what it was; nil is none.
func unchanged(was, is os.FileInfo) bool {
	if was == nil || is == nil {
		return was == nil && is == nil
	}
	return os.SameFile(was, is) && stampOf(was) == stampOf(is)
}

// login returns a ticket-granting ticket by the keys in a keytab.
func (i *Initiator) login(ctx context.Context, a *agent, name string) (who, *ticket, error) {
	path, err := keytabPath(name)
	if err != nil {
		return who{}, nil, err
	}
	k, err := loadKeys(path)
	if err != nil {
		return who{}, nil, err
	}
	client, entry, err := k.client(i.Principal, a.settings.LibDefaults.DefaultTktEnctypeIDs)
	if err != nil {
		return who{}, nil, err
	}
	t, err := i.shared(ctx, a, "krbtgt "+client.String(), func(ctx context.Context) (*ticket, error) { return a.login(ctx, client, entry) })
	return client, t, err
}

// client returns the principal whose keys are to be used, and its newest key
// of the type that is liked best.
func (k *keys) client(name string, liked []int32) (who, *keyEntry, error) {
	if name == "" {
		name = k.entries[0].String()
	}
	var best *keyEntry
	rank := func(e *keyEntry) int { return slices.Index(liked, e.key.KeyType) }
	for i := range k.entries {
		e := &k.entries[i]
		isName := e.String() == name || principal(e.name, "") == name+"@"
		if !isName || rank(e) < 0 {
			continue
		}
		if best == nil || e.kvno > best.kvno || e.kvno == best.kvno && rank(e) < rank(best) {
			best = e
		}
	}
	if best == nil {
		all := k.names(func(*keyEntry) bool { return true })
		return who{}, nil, fmt.Errorf("keytab %s has no key of AES of %s, only keys of %s", k.path, name, strings.Join(all, ", "))
	}
	return who{types.PrincipalName{NameType: 1, NameString: best.name}, best.realm}, best, nil
}

// initiate makes the first token, and prepares for the answer.
func initiate(c *Context, t *ticket, client who) ([]byte, error) {
	etype, err := checkKey(t.session)
	if err != nil {
		return nil, fmt.Errorf("the ticket's session key: %w", err)
	}
	auth := newAuthenticator(client)
	auth.Cksum = types.Checksum{CksumType: checksumType, Checksum: initialChecksum()}
	auth.SubKey, auth.SeqNumber = etype.newKey(), int64(newSequence())
	req, err := apRequest(t, auth, keyusage.AP_REQ_AUTHENTICATOR)
	if err != nil {
		return nil, err
	}
	types.SetFlag(&req.APOptions, flags.APOptionMutualRequired)
	body, err := req.Marshal()
	if err != nil {
		return nil, err
	}
	c.step = func(token []byte) ([]byte, error) { return nil, finish(c, token, t.session, &auth) }
	return appendInitial(nil, tokenRequest, body), nil
}

// newAuthenticator returns an authenticator of now.
func newAuthenticator(client who) types.Authenticator {
	now := time.Now().UTC()
	return types.Authenticator{
		AVNO: version, CRealm: client.realm, CName: client.name,
		CTime: now.Truncate(time.Second), Cusec: now.Nanosecond() / 1000,
	}
}

// initialChecksum asks for everything that a context has (RFC 4121, section
// 4.1.1): channel bindings of zeros, and the flags.
func initialChecksum() []byte {
	b := make([]byte, 4+bindingsSize+4)
	binary.LittleEndian.PutUint32(b, bindingsSize)
	binary.LittleEndian.PutUint32(b[4+bindingsSize:], flagMutual|flagReplay|flagSequence|flagConf|flagInteg)
	return b
}

// apRequest puts a ticket and an authenticator together.
func apRequest(t *ticket, auth types.Authenticator, usage uint32) (req messages.APReq, err error) {
	plain, err := auth.Marshal()
	if err != nil {
		return req, err
	}
	req = messages.APReq{PVNO: version, MsgType: msgtype.KRB_AP_REQ, APOptions: types.NewKrbFlags(), Ticket: t.Ticket}
	req.EncryptedAuthenticator, err = encryptData(t.session, usage, plain)
	return req, err
}

// finish takes the answer, which proves that the service is the one that the
// ticket is for.
func finish(c *Context, token []byte, session types.EncryptionKey, auth *types.Authenticator) error {
	id, body, err := parseInitial(token)
	if err != nil {
		return fmt.Errorf("the service's answer: %w", err)
	}
	switch id {
	case tokenReply:
	case tokenError:
		var refusal messages.KRBError
		if err := refusal.Unmarshal(body); err != nil {
			return errors.New("the service refuses, with an error that is malformed")
		}
		return fmt.Errorf("the service refuses: %w", explain(refusal))
	default:
		return fmt.Errorf("the service's answer has the identifier %04x, want %04x", uint16(id), uint16(tokenReply))
	}
	var reply messages.APRep
	if reply.Unmarshal(body) != nil || reply.PVNO != version {
		return errors.New("the service's answer has no AP-REP")
	}
	if again, err := marshalReply(reply); err != nil || !bytes.Equal(again, body) {
		return errors.New("the service's answer has a malformed AP-REP")
	}
	plain, err := decryptData(session, keyusage.AP_REP_ENCPART, reply.EncPart)
	if err != nil {
		return fmt.Errorf("the service's answer: %w", err)
	}
	var part messages.EncAPRepPart
	if _, err := asn1.UnmarshalWithParams(plain, &part, fmt.Sprintf("application,explicit,tag:%v", asnAppTag.EncAPRepPart)); err != nil {
		return errors.New("the service's answer is malformed")
	}
	if !part.CTime.Equal(auth.CTime) || part.Cusec != auth.Cusec {
		return errors.New("the service's answer is to another request")
	}
	key, hasSubkey := auth.SubKey, len(part.Subkey.KeyValue) > 0
	if hasSubkey {
		key = part.Subkey
	}
	if _, err := checkKey(key); err != nil {
		return fmt.Errorf("the service's subkey: %w", err)
	}
	c.establish(key, false, hasSubkey, uint32(auth.SeqNumber), uint32(part.SequenceNumber))
	return nil
}
