package krb5

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/test/testdata"
	"github.com/jcmturner/gokrb5/v8/types"
)

// directory returns a certificate that an Active Directory has made, the key of
// the service that it is for, and a ticket of its owner without it.
func directory(t testing.TB) (certificate []byte, key types.EncryptionKey, owner messages.EncTicketPart) {
	t.Helper()
	entries, err := parseKeytab(unhex(t, testdata.KEYTAB_SYSHTTP_TEST_GOKRB5))
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(entries, func(e keyEntry) bool { return e.kvno == 2 && e.key.KeyType == 18 })
	owner.CName.NameString = []string{"testuser1"}
	owner.CRealm = "TEST.GOKRB5"
	owner.AuthTime = time.Date(2017, 5, 6, 15, 53, 11, 0, time.UTC)
	return unhex(t, testdata.MarshaledPAC_AD_WIN2K_PAC), entries[at].key, owner
}

// TestGroups has a certificate that an Active Directory has made.
func TestGroups(t *testing.T) {
	certificate, key, owner := directory(t)
	log := slog.New(slog.DiscardHandler)
	groups, err := groupsOf(ticketWith(t, owner, certificate), key, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"S-1-5-21-3167651404-3865080224-2280184895-513",  // the domain's users
		"S-1-5-21-3167651404-3865080224-2280184895-1108", // a group of this user
	} {
		if !slices.Contains(groups, want) {
			t.Errorf("%s is not among %v", want, groups)
		}
	}
	for i := range certificate {
		b := bytes.Clone(certificate)
		b[i] ^= 4
		// The KDC's own signature is for the KDC.
		if got, err := groupsOf(ticketWith(t, owner, b), key, log); err != nil || got != nil && !slices.Equal(got, groups) {
			t.Errorf("byte %d changed: %v, %v", i, got, err)
		}
		if got, err := groupsOf(ticketWith(t, owner, certificate[:i]), key, log); got != nil || err != nil {
			t.Errorf("%d bytes: %v, %v", i, got, err)
		}
	}
	if groups, err := groupsOf(&owner, key, log); groups != nil || err != nil {
		t.Errorf("without a certificate: %v, %v", groups, err)
	}
}

// TestGroupsNotSigned has a certificate that another key has signed.
func TestGroupsNotSigned(t *testing.T) {
	certificate, _, owner := directory(t)
	var log bytes.Buffer
	groups, err := groupsOf(ticketWith(t, owner, certificate), enctypes[1].newKey(), slog.New(slog.NewTextHandler(&log, nil)))
	if groups != nil || err != nil || !strings.Contains(log.String(), "not signed with the service's key") {
		t.Errorf("%v, %v, log %s", groups, err, &log)
	}
}

// TestGroupsOfAnother has certificates that are good, and of somebody else.
func TestGroupsOfAnother(t *testing.T) {
	certificate, key, owner := directory(t)
	for want, change := range map[string]func(*messages.EncTicketPart){
		`ticket of eve@TEST.GOKRB5: its certificate of groups is of "testuser1"`: func(p *messages.EncTicketPart) { p.CName.NameString = []string{"eve"} },
		"of another login": func(p *messages.EncTicketPart) { p.AuthTime = p.AuthTime.Add(time.Second) },
	} {
		other := owner
		change(&other)
		if groups, err := groupsOf(ticketWith(t, other, certificate), key, slog.New(slog.DiscardHandler)); groups != nil || !matches(want, err) {
			t.Errorf("%v, %v, want %s", groups, err, want)
		}
	}
}

// TestGroupsBounded has counts that nothing stands behind, signed or not.
func TestGroupsBounded(t *testing.T) {
	certificate, key, owner := directory(t)
	c, err := parseCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	logon := c[bufferLogon]
	for at := 0; at+4 <= len(certificate); at += 4 {
		b := bytes.Clone(certificate)
		binary.LittleEndian.PutUint32(b[at:], 0x0fffffff)
		tickets := []*messages.EncTicketPart{ticketWith(t, owner, b)}
		if at+4 <= len(logon) {
			b := bytes.Clone(logon)
			binary.LittleEndian.PutUint32(b[at:], 0x0fffffff)
			tickets = append(tickets, ticketWith(t, owner, signed(t, key, c[bufferClient], b)))
		}
		for _, ticket := range tickets {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _ = groupsOf(ticket, key, slog.New(slog.DiscardHandler))
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 64*uint64(len(certificate)) {
				t.Errorf("a count at %d: %d bytes for %d", at, got, len(certificate))
			}
		}
	}
}

// FuzzGroups has bytes as a whole certificate, and as the groups of a signed one.
func FuzzGroups(f *testing.F) {
	certificate, key, owner := directory(f)
	c, err := parseCertificate(certificate)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(certificate, []byte(nil))
	f.Add(c[bufferLogon], c[bufferClient])
	f.Fuzz(func(t *testing.T, b, client []byte) {
		log := slog.New(slog.DiscardHandler)
		if groups, err := groupsOf(ticketWith(t, owner, b), key, log); err != nil || groups != nil && !bytes.Equal(b[:8], certificate[:8]) {
			t.Errorf("without the signature: %v, %v", groups, err)
		}
		_, _ = groupsOf(ticketWith(t, owner, signed(t, key, client, b)), key, log)
		groups, err := groupsOf(ticketWith(t, owner, signed(t, key, c[bufferClient], b)), key, log)
		size := 0
		for _, group := range groups {
			size += len(group)
		}
		if err != nil && groups != nil || size > 32*len(b) {
			t.Errorf("%d bytes are groups of %d, %v", len(b), size, err)
		}
	})
}

// signed makes a certificate with a good signature.
func signed(t testing.TB, key types.EncryptionKey, client, logon []byte) []byte {
	t.Helper()
	etype, err := checkKey(key)
	if err != nil {
		t.Fatal(err)
	}
	signature := append(binary.LittleEndian.AppendUint32(nil, uint32(etype.checksumID())), make([]byte, etype.macSize)...)
	buffers := []struct {
		kind uint32
		b    []byte
	}{{bufferServerSignature, signature}, {bufferKDCSignature, signature}, {bufferClient, client}, {bufferLogon, logon}}
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(buffers)))
	at := 8 + 16*len(buffers)
	for _, buffer := range buffers {
		b = binary.LittleEndian.AppendUint32(b, buffer.kind)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(buffer.b)))
		b = binary.LittleEndian.AppendUint64(b, uint64(at))
		at += len(buffer.b)
	}
	place := len(b) + 4
	for _, buffer := range buffers {
		b = append(b, buffer.b...)
	}
	s, err := newSummer(key, usageSignature)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[place:], s.checksum(b))
	return b
}

// ticketWith is a ticket with a certificate.
func ticketWith(t testing.TB, ticket messages.EncTicketPart, certificate []byte) *messages.EncTicketPart {
	t.Helper()
	const ifRelevant, win2kPAC = 1, 128
	inner, err := asn1.Marshal(types.AuthorizationData{{ADType: win2kPAC, ADData: certificate}})
	if err != nil {
		t.Fatal(err)
	}
	ticket.AuthorizationData = types.AuthorizationData{{ADType: ifRelevant, ADData: inner}}
	return &ticket
}
