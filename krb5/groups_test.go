package krb5

import (
	"bytes"
	"slices"
	"testing"

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
	return &messages.EncTicketPart{AuthorizationData: types.AuthorizationData{{ADType: ifRelevant, ADData: inner}}}
}
