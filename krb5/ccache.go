package krb5

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// ticket is a ticket with what its client knows of it.
type ticket struct {
	messages.Ticket
	server  []string
	realm   string // the server's
	session types.EncryptionKey
	end     time.Time
	got     time.Time // from the KDC
	encoded []byte    // as a cache has it
}

// spare is how long a ticket should still be good.
const spare = 30 * time.Second

func (t *ticket) good() bool { return t != nil && time.Until(t.end) > spare }

// cache is what is in a credential cache.
type cache struct {
	client  types.PrincipalName
	realm   string
	tickets []*ticket
}

// find returns a good ticket for a service. realm "" is any.
func (c *cache) find(server []string, realm string) *ticket {
	for _, t := range c.tickets {
		if slices.Equal(t.server, server) && (realm == "" || t.realm == realm) && t.good() {
			return t
		}
	}
	return nil
}

// cachePath returns the file behind the name of a cache.
func cachePath(name string) (string, error) {
	kind, path, found := strings.Cut(name, ":")
	switch {
	case !found || strings.Contains(kind, "/"):
		return name, nil
	case kind == "FILE":
		return path, nil
	case kind == "DIR":
		return dirPath(path)
	}
	return "", fmt.Errorf("credential cache %s: caches of type %s are not supported: get a ticket with KRB5CCNAME=FILE:/tmp/krb5cc_%d kinit, and name that cache",
		name, kind, os.Getuid())
}

// dirPath returns the file of a cache in a directory of several: the primary
// one, or the one after a second colon.
func dirPath(path string) (string, error) {
	if file, one := strings.CutPrefix(path, ":"); one {
		return file, nil
	}
	b, _, err := readFile(filepath.Join(path, "primary"))
	if errors.Is(err, os.ErrNotExist) {
		return filepath.Join(path, "tkt"), nil
	}
	name := strings.TrimSpace(string(b))
	if err == nil && (name != filepath.Base(name) || !strings.HasPrefix(name, "tkt")) {
		err = fmt.Errorf("%s names %q, which is no cache", filepath.Join(path, "primary"), name)
	}
	return filepath.Join(path, name), err
}

// cacheName returns the name of the cache that a user has.
func cacheName(s *settings) string {
	return expand(cmp.Or(os.Getenv("KRB5CCNAME"), s.cacheName, "FILE:/tmp/krb5cc_%{uid}"))
}

// loadCache reads a credential cache of a file.
func loadCache(path string) (*cache, stamp, error) {
	b, stamp, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, stamp, fmt.Errorf("no credential cache %s: get a ticket with kinit", path)
	}
	if err != nil {
		return nil, stamp, err
	}
	c, err := parseCache(b)
	if err != nil {
		return nil, stamp, fmt.Errorf("credential cache %s: %w", path, err)
	}
	return c, stamp, nil
}

var errNoCache = errors.New("not a credential cache of version 3 or 4, or cut short")

// parseCache reads a cache, leaving out what is no ticket of its owner's: MIT's
// library keeps its notes there too.
func parseCache(b []byte) (*cache, error) {
	in := &cursor{b: b}
	version := in.uint16()
	switch version {
	case 0x0503:
	case 0x0504:
		in.data16() // such as the difference between the clocks
	default:
		return nil, errNoCache
	}
	c := new(cache)
	c.client, c.realm = parsePrincipal(in)
	for len(in.b) > 0 {
		client, crealm := parsePrincipal(in)
		t := parseTicket(in, version)
		if in.failed {
			break
		}
		isOwners := client.Equal(c.client) && crealm == c.realm
		if _, err := checkKey(t.session); err == nil && isOwners && unmarshalTicket(t) == nil {
			c.tickets = append(c.tickets, t)
		}
	}
	if in.failed {
		return nil, errNoCache
	}
	return c, nil
}

func parsePrincipal(in *cursor) (name types.PrincipalName, realm string) {
	name.NameType = int32(in.uint32())
	components := in.uint32()
	realm = string(in.data32())
	for i := uint32(0); in.more(i, components); i++ {
		name.NameString = append(name.NameString, string(in.data32()))
	}
	return name, realm
}

// parseTicket reads what comes after the client of a ticket.
func parseTicket(in *cursor, version uint16) *ticket {
	t := new(ticket)
	server, realm := parsePrincipal(in)
	t.server, t.realm = server.NameString, realm
	t.session.KeyType = int32(in.uint16())
	if version == 0x0503 {
		in.uint16() // again
	}
	t.session.KeyValue = in.data32()
	in.take(2 * 4) // when it was got, and when it begins
	t.end = time.Unix(int64(in.uint32()), 0)
	in.take(4 + 1 + 4) // until when it can be renewed; for whose session key; flags
	for range 2 {      // addresses, and authorization data
		n := in.uint32()
		for i := uint32(0); in.more(i, n); i++ {
			in.uint16()
			in.data32()
		}
	}
	t.encoded = in.data32()
	in.data32() // a second ticket
	return t
}

// unmarshalTicket takes the ticket itself apart.
func unmarshalTicket(t *ticket) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed ticket: %v", r)
		}
	}()
	return t.Ticket.Unmarshal(t.encoded)
}
