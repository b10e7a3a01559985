package krb5

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/test/testdata"
	"github.com/jcmturner/gokrb5/v8/types"
)

// TestGroups has a certificate that an Active Directory has made.
func TestGroups(t *testing.T) {
	certificate := unhex(t, testdata.MarshaledPAC_AD_WIN2K_PAC)
	entries, err := parseKeytab(unhex(t, testdata.KEYTAB_SYSHTTP_TEST_GOKRB5))
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(entries, func(e keyEntry) bool { return e.kvno == 2 && e.key.KeyType == 18 })
	key := entries[at].key
	groups := groupsOf(ticketWith(t, certificate), key)
	for _, want := range []string{
		"S-1-5-21-3167651404-3865080224-2280184895-513",  // the domain's users
		"S-1-5-21-3167651404-3865080224-2280184895-1108", // a group of this user
	} {
		if !slices.Contains(groups, want) {
			t.Errorf("%s is not among %v", want, groups)
		}
	}
	if groups := groupsOf(ticketWith(t, certificate), enctypes[1].newKey()); groups != nil {
		t.Errorf("signed with another key: %v", groups)
	}
	for i := range certificate {
		b := bytes.Clone(certificate)
		b[i] ^= 4
		// The KDC's own signature is for the KDC.
		if got := groupsOf(ticketWith(t, b), key); got != nil && !slices.Equal(got, groups) {
			t.Errorf("byte %d changed: %v", i, got)
		}
		_ = groupsOf(ticketWith(t, certificate[:i]), key) // no panic
	}
	for what, change := range map[string]func(*messages.EncTicketPart){
		"somebody else": func(part *messages.EncTicketPart) { part.CName.NameString[0] = "testuser2" },
		"another login": func(part *messages.EncTicketPart) { part.AuthTime = part.AuthTime.Add(time.Second) },
	} {
		part := ticketWith(t, certificate)
		change(part)
		if groups := groupsOf(part, key); groups != nil {
			t.Errorf("of %s: %v", what, groups)
		}
	}
	if groups := groupsOf(new(messages.EncTicketPart), key); groups != nil {
		t.Errorf("without a certificate: %v", groups)
	}
}

// ticketWith is a ticket with a certificate.
func ticketWith(t *testing.T, certificate []byte) *messages.EncTicketPart {
	t.Helper()
	const ifRelevant, win2kPAC = 1, 128
	inner, err := asn1.Marshal(types.AuthorizationData{{ADType: win2kPAC, ADData: certificate}})
	if err != nil {
		t.Fatal(err)
	}
	return &messages.EncTicketPart{
		CName:             types.NewPrincipalName(1, "testuser1"),
		AuthTime:          time.Date(2017, 5, 6, 15, 53, 11, 0, time.UTC), // as it has it
		AuthorizationData: types.AuthorizationData{{ADType: ifRelevant, ADData: inner}},
	}
}

// FuzzPAC has certificates with and without a good signature.
func FuzzPAC(f *testing.F) {
	certificate := unhex(f, testdata.MarshaledPAC_AD_WIN2K_PAC)
	key := enctypes[1].newKey()
	f.Add(certificate, true)
	f.Add(certificate, false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if c, err := parseCertificate(b); err == nil && sign {
			b = signed(t, c, key)
		}
		_ = groupsOf(ticketWith(t, b), key)
	})
}

// signed returns a certificate with the signature of key, if it has room for one.
func signed(t *testing.T, c *certificate, key types.EncryptionKey) []byte {
	mine := c.buffers[serverSignature]
	if len(mine) < 16 {
		return c.bytes
	}
	binary.LittleEndian.PutUint32(mine, uint32(enctypes[1].checksumID()))
	c.isSigned(key) // puts in zeros
	sums, err := newSummer(key, usageChecksum)
	if err != nil {
		t.Fatal(err)
	}
	copy(mine[4:], sums.checksum(c.bytes))
	return c.bytes
}
