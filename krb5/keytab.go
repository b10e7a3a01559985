package krb5

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jcmturner/gokrb5/v8/types"
)

// maxFile bounds the files that are read whole.
const maxFile = 16 << 20

// readFile reads a file, and says when it was written.
func readFile(path string) ([]byte, stamp, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, stamp{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, stamp{}, err
	}
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if len(b) > maxFile {
		return nil, stamp{}, fmt.Errorf("%s: longer than %d MiB", path, maxFile>>20)
	}
	return b, stampOf(info), err
}

// stamp tells one version of a file from another.
type stamp struct {
	written time.Time
	size    int64
}

func stampOf(info os.FileInfo) stamp { return stamp{info.ModTime(), info.Size()} }

// filePath returns the path in the name of a keytab.
func keytabPath(name string) (string, error) {
	kind, path, found := strings.Cut(name, ":")
	switch {
	case !found || strings.Contains(kind, "/"):
		return name, nil
	case kind == "FILE" || kind == "WRFILE":
		return path, nil
	}
	return "", fmt.Errorf("keytab %s: keytabs of type %s are not supported, want a file", name, kind)
}

// keys are the entries of a keytab.
type keys struct {
	path    string
	entries []keyEntry
	stamp   stamp
}

// keyEntry is a key of a principal.
type keyEntry struct {
	name  []string
	realm string
	kvno  uint32
	key   types.EncryptionKey
}

// String returns the principal.
func (e *keyEntry) String() string { return principal(e.name, e.realm) }

// loadKeys reads a keytab. With errNoKeys there is one, too.
func loadKeys(path string) (*keys, error) {
	b, stamp, err := readFile(path)
	if err != nil {
		return nil, err
	}
	k := &keys{path: path, stamp: stamp}
	if k.entries, err = parseKeytab(b); err != nil {
		return k, fmt.Errorf("keytab %s: %w", path, err)
	}
	return k, nil
}

var (
	errNoKeytab = errors.New("not a keytab, or cut short")
	errNoKeys   = errors.New("has no keys")
)

// parseKeytab reads the entries of a keytab of version 2, of which every
// program has written for twenty years. Errors show nothing of the keys.
func parseKeytab(b []byte) (entries []keyEntry, err error) {
	c := &cursor{b: b}
	if c.uint16() != 0x0502 {
		return nil, errNoKeytab
	}
	for len(c.b) >= 4 {
		size := int32(c.uint32())
		switch {
		case size < 0: // an entry was here
			c.take(-int(size))
		case size == 0:
			c.b = nil // MIT's library ends here, too
		default:
			entry := &cursor{b: c.take(int(size))}
			entries = append(entries, parseKey(entry))
			c.failed = c.failed || entry.failed
		}
	}
	if c.failed {
		return nil, errNoKeytab
	}
	if len(entries) == 0 {
		return nil, errNoKeys
	}
	return entries, nil
}

// parseKey reads one entry.
func parseKey(c *cursor) (e keyEntry) {
	components := uint32(c.uint16())
	e.realm = string(c.data16())
	for i := uint32(0); c.more(i, components); i++ {
		e.name = append(e.name, string(c.data16()))
	}
	c.uint32() // the type of the name
	c.uint32() // when it was written
	e.kvno = uint32(c.uint8())
	e.key.KeyType = int32(c.uint16())
	e.key.KeyValue = c.data16()
	if len(c.b) >= 4 { // a longer version, if it is not 0
		e.kvno = cmp.Or(c.uint32(), e.kvno)
	}
	return e
}

// names returns the principals, each once.
func (k *keys) names(match func(*keyEntry) bool) []string {
	var names []string
	for i := range k.entries {
		if e := &k.entries[i]; match(e) {
			names = add(names, e.String())
		}
	}
	return names
}

// listNames returns some of the principals in words.
func (k *keys) listNames() string {
	const most = 5
	names := k.names(func(*keyEntry) bool { return true })
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// errNoKey is in the error of a ticket that no key opens.
type errNoKey struct{ reason string }

func (e *errNoKey) Error() string { return e.reason }

// find returns the keys that may open a ticket: those of its principal, its
// version and its type. There are several if a keytab was put together of
// others.
func (k *keys) find(name []string, realm string, kvno uint32, etype *enctype) (found []types.EncryptionKey, err error) {
	var realms, versions, types []string
	known := false
	for i := range k.entries {
		e := &k.entries[i]
		if !slices.Equal(e.name, name) {
			continue
		}
		if e.realm != realm {
			realms = add(realms, e.realm)
			continue
		}
		known = true
		if !sameVersion(e.kvno, kvno) {
			versions = add(versions, fmt.Sprint(e.kvno))
			continue
		}
		if e.key.KeyType != etype.id {
			types = add(types, nameOf(e.key.KeyType))
			continue
		}
		found = append(found, e.key)
	}
	who := principal(name, realm)
	switch {
	case len(found) > 0:
		return found, nil
	case len(types) > 0:
		return nil, &errNoKey{fmt.Sprintf("the ticket for %s is encrypted with %s, of which keytab %s has no key, only %s: export the principal's keys again",
			who, etype.name, k.path, strings.Join(types, ", "))}
	case known:
		return nil, &errNoKey{fmt.Sprintf("the ticket for %s is made with key version %d, but keytab %s has version %s: export the new keys into it, or, if the ticket is older, the user should get a new one with kinit",
			who, kvno, k.path, strings.Join(versions, ", "))}
	case len(realms) > 0:
		return nil, &errNoKey{fmt.Sprintf("the ticket is from the wrong realm, %s; keytab %s is of %s", realm, k.path, strings.Join(realms, ", "))}
	}
	return nil, &errNoKey{fmt.Sprintf("the ticket is for %s, of which keytab %s has no key, only of %s", who, k.path, k.listNames())}
}

// sameVersion compares the version in a keytab, whose older form keeps 8 bits
// of it, with that in a ticket, which may leave it out.
func sameVersion(kept, asked uint32) bool {
	return asked == 0 || kept == asked || kept < 256 && kept == asked&0xff
}

func add(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

func nameOf(id int32) string {
	if e, err := enctypeOf(id); err == nil {
		return e.name
	}
	return cmp.Or(weakNames[id], fmt.Sprint(id))
}

// principal returns a name as MIT's programs show it.
func principal(name []string, realm string) string {
	escaped := make([]string, len(name))
	for i, component := range name {
		escaped[i] = escaper.Replace(component)
	}
	return strings.Join(escaped, "/") + "@" + strings.NewReplacer(`\`, `\\`, "@", `\@`).Replace(realm)
}

var escaper = strings.NewReplacer(`\`, `\\`, "/", `\/`, "@", `\@`)
