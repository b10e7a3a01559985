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

	mu       sync.Mutex
	settings *settings
	cached   *cache
	path     string // of cached
	stamp    stamp
	got      map[string]*ticket // by principal: those that the KDC gave
	flights  map[string]*flight // by principal: those that it is asked for
}

// Initiate begins a context with a service, which is on host unless it is
// written as rcmd/gw.example.com, and in the realm that krb5.conf or the user's
// KDC says, unless that is written after it, with an @. It gets a ticket, which may take a word with
// the KDC. The first step of the context gives the token for the service.
func (i *Initiator) Initiate(ctx context.Context, service, host string) (*Context, error) {
	t, client, err := i.ticket(ctx, service, host)
	if err != nil {
		return nil, fmt.Errorf("kerberos: %w", err)
	}
	c := &Context{peer: principal(t.server, t.realm)}
	c.step = func([]byte) ([]byte, error) { return initiate(c, t, client) }
	return c, nil
}

// who is a client.
type who struct {
	name  types.PrincipalName
	realm string
}

func (w who) String() string { return principal(w.name.NameString, w.realm) }

// ticket returns a ticket for the service: of those that are there, or of the KDC,
// which is asked once for all callers that wait for the same.
func (i *Initiator) ticket(ctx context.Context, service, host string) (*ticket, who, error) {
	service, realm, _ := strings.Cut(service, "@")
	name := strings.Split(service, "/")
	if len(name) == 1 {
		name = append(name, strings.ToLower(strings.TrimSuffix(host, ".")))
	}
	i.mu.Lock()
	s, err := i.config()
	if err != nil {
		i.mu.Unlock()
		return nil, who{}, err
	}
	realm = cmp.Or(realm, s.realmOf(name[1]))
	id, err := i.identity(s)
	if err != nil {
		i.mu.Unlock()
		return nil, who{}, err
	}
	key := principal(name, realm) + " " + id.client.String()
	t := id.cached(name, realm)
	if got := i.got[key]; t == nil && got.good() && time.Since(got.got) < keepTime {
		t = got
	}
	if t != nil {
		i.mu.Unlock()
		return t, id.client, nil
	}
	f := i.flights[key]
	if f == nil {
		f = i.fly(ctx, key, func(ctx context.Context) (*ticket, error) {
			return i.ask(ctx, &agent{settings: s, dial: i.DialContext}, id, name, realm, key)
		})
	}
	f.waiters++
	i.mu.Unlock()
	t, err = i.wait(ctx, f)
	return t, id.client, err
}

// A flight is an exchange with KDCs that callers wait for.
type flight struct {
	waiters int // guarded by the initiator's mu
	cancel  context.CancelFunc
	done    chan struct{} // closed when the rest is set
	ticket  *ticket
	err     error
}

// fly begins a flight, which goes on as long as anybody waits for it. i.mu is held.
func (i *Initiator) fly(ctx context.Context, key string, ask func(context.Context) (*ticket, error)) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{cancel: cancel, done: make(chan struct{})}
	if i.flights == nil {
		i.flights = make(map[string]*flight)
	}
	i.flights[key] = f
	go func() {
		defer close(f.done)
		defer cancel()
		f.ticket, f.err = ask(ctx)
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.flights[key] == f {
			delete(i.flights, key)
		}
	}()
	return f
}

func (i *Initiator) wait(ctx context.Context, f *flight) (*ticket, error) {
	select {
	case <-f.done:
		return f.ticket, f.err
	case <-ctx.Done():
	}
	i.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last {
		for key, other := range i.flights {
			if other == f {
				delete(i.flights, key) // nobody is to join it any more
			}
		}
	}
	i.mu.Unlock()
	if !last {
		return nil, fmt.Errorf("the KDC has not answered: %w", ctx.Err())
	}
	f.cancel()
	select {
	case <-f.done:
		if f.err == nil {
			return f.ticket, nil
		}
		return nil, fmt.Errorf("%w: %w", ctx.Err(), f.err) // it knows which KDC
	case <-time.After(patience): // DNS does not notice
		return nil, fmt.Errorf("the KDC has not answered, nor DNS where it is: %w", ctx.Err())
	}
}

// patience is how long what was cancelled may take to say so.
const patience = 200 * time.Millisecond

// ask gets a ticket from the KDC, after a login if that is needed.
func (i *Initiator) ask(ctx context.Context, a *agent, id identity, name []string, realm, key string) (*ticket, error) {
	tgt := id.tgt
	if id.key != nil {
		var err error
		if tgt, err = i.login(ctx, a, id); err != nil {
			return nil, err
		}
	}
	t, err := a.service(ctx, id.client, tgt, name, realm)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	i.keep(key, t)
	i.mu.Unlock()
	return t, nil
}

// login returns a ticket-granting ticket by a key.
func (i *Initiator) login(ctx context.Context, a *agent, id identity) (*ticket, error) {
	key := "krbtgt " + id.client.String()
	i.mu.Lock()
	t := i.got[key]
	i.mu.Unlock()
	if t.good() {
		return t, nil
	}
	t, err := a.login(ctx, id.client, id.key)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	i.keep(key, t)
	i.mu.Unlock()
	return t, nil
}

// keepTime is how long a ticket for a service is kept: for no longer does one
// stay in use that is of a key that the service has renewed.
const keepTime = 5 * time.Minute

// keep keeps a ticket for the next time. i.mu is held.
func (i *Initiator) keep(key string, t *ticket) {
	for k, old := range i.got {
		if !old.good() {
			delete(i.got, k)
		}
	}
	if i.got == nil {
		i.got = make(map[string]*ticket)
	}
	i.got[key] = t
}

func (i *Initiator) config() (*settings, error) {
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

// An identity is who the client is, with what shows it.
type identity struct {
	client who
	cache  *cache    // nil: there is a key
	tgt    *ticket   // of the cache; nil if that has tickets for services only
	key    *keyEntry // to log in with
}

// cached returns the ticket that the cache has.
func (id *identity) cached(name []string, realm string) *ticket {
	if id.cache == nil {
		return nil
	}
	return id.cache.find(name, realm)
}

// identity returns who the client is now. i.mu is held.
func (i *Initiator) identity(s *settings) (identity, error) {
	if i.Keytab != "" {
		return i.keyIdentity(s, i.Keytab)
	}
	err := i.readCache(s)
	if err == nil {
		id := identity{client: who{i.cached.client, i.cached.realm}, cache: i.cached}
		id.tgt = i.cached.find([]string{"krbtgt", id.client.realm}, id.client.realm)
		if id.tgt != nil || slices.ContainsFunc(i.cached.tickets, (*ticket).good) {
			return id, nil
		}
		err = fmt.Errorf("the tickets of %s in %s have expired: get a new one with kinit", id.client, i.path)
	}
	if path := os.Getenv("KRB5_CLIENT_KTNAME"); path != "" {
		return i.keyIdentity(s, path)
	}
	return identity{}, err
}

// keyIdentity returns who the client is by the keys in a keytab.
func (i *Initiator) keyIdentity(s *settings, name string) (id identity, err error) {
	path, err := keytabPath(name)
	if err != nil {
		return id, err
	}
	k, err := loadKeys(path)
	if err != nil {
		return id, err
	}
	id.client, id.key, err = k.client(i.Principal, s.LibDefaults.DefaultTktEnctypeIDs)
	return id, err
}

// readCache reads the credential cache if it has changed. i.mu is held.
func (i *Initiator) readCache(s *settings) error {
	path, err := cachePath(cmp.Or(i.Cache, cacheName(s)))
	if err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && i.cached != nil && path == i.path && stampOf(info) == i.stamp {
		return nil
	}
	i.cached = nil
	c, stamp, err := loadCache(path)
	if err != nil {
		return err
	}
	i.cached, i.path, i.stamp = c, path, stamp
	i.got = nil // they may be another user's
	return nil
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
