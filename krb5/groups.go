package krb5

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/jcmturner/gokrb5/v8/iana/adtype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// groupsOf returns the groups in the ticket's privilege attribute certificate
// (MS-PAC), which Active Directory makes. It must be signed with the service's
// key, which only the KDC has beside us: what a client has put into its ticket
// by itself does not count, and a ticket without one is of a user without
// groups. One that the KDC has signed must be the ticket's owner's, and be
// understood, or the ticket is no good: rules may deny by group.
func groupsOf(ticket *messages.EncTicketPart, key types.EncryptionKey, log *slog.Logger) ([]string, error) {
	who := principal(ticket.CName.NameString, ticket.CRealm)
	for _, b := range certificates(ticket) {
		c, err := verifyCertificate(b, key)
		if err != nil {
			log.Warn("groups in a ticket do not count", "principal", who, "err", err)
			continue
		}
		if err := c.checkOwner(ticket); err != nil {
			return nil, fmt.Errorf("the ticket of %s: %w", who, err)
		}
		groups, err := c.groups()
		if err != nil {
			return nil, fmt.Errorf("the ticket of %s: %w", who, err)
		}
		return groups, nil
	}
	return nil, nil
}

// certificates returns what may be a certificate in a ticket.
func certificates(ticket *messages.EncTicketPart) (all [][]byte) {
	for _, outer := range ticket.AuthorizationData {
		var inner types.AuthorizationData
		if outer.ADType != adtype.ADIfRelevant || inner.Unmarshal(outer.ADData) != nil {
			continue
		}
		for _, entry := range inner {
			if entry.ADType == adtype.ADWin2KPAC {
				all = append(all, entry.ADData)
			}
		}
	}
	return all
}

// certificate has the buffers of a PAC by their type.
type certificate map[uint32][]byte

// The types that count here (MS-PAC, section 2.4).
const (
	bufferLogon           = 1
	bufferServerSignature = 6
	bufferKDCSignature    = 7
	bufferClient          = 10
)

// usageSignature is KERB_NON_KERB_CKSUM_SALT (MS-PAC, section 2.8.1).
const usageSignature = 17

var errCertificate = errors.New("malformed certificate of groups")

// verifyCertificate takes a PAC apart that is signed with key. Nothing but its
// directory is looked at before.
func verifyCertificate(b []byte, key types.EncryptionKey) (certificate, error) {
	b = bytes.Clone(b)
	c, err := parseCertificate(b)
	if err != nil {
		return nil, err
	}
	etype, err := checkKey(key)
	if err != nil {
		return nil, err
	}
	kind, signature := c.signature(bufferServerSignature)
	_, other := c.signature(bufferKDCSignature)
	if signature == nil || other == nil {
		return nil, errors.New("certificate of groups without the signatures of service and KDC")
	}
	if kind != etype.checksumID() {
		return nil, fmt.Errorf("certificate of groups with a signature of type %d, want %d", kind, etype.checksumID())
	}
	sum := bytes.Clone(signature)
	clear(signature) // what is signed has zeros in the place of both
	clear(other)
	s, err := newSummer(key, usageSignature)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(sum, s.checksum(b)) {
		return nil, errors.New("certificate of groups that is not signed with the service's key")
	}
	return c, nil
}

// parseCertificate reads the directory of a PAC (MS-PAC, sections 2.3 and 2.4).
func parseCertificate(b []byte) (certificate, error) {
	if len(b) < 8 {
		return nil, errCertificate
	}
	end := 8 + 16*uint64(binary.LittleEndian.Uint32(b))
	if end > uint64(len(b)) {
		return nil, errCertificate
	}
	c := make(certificate)
	for entry := range slices.Chunk(b[8:end], 16) {
		kind := binary.LittleEndian.Uint32(entry)
		size, offset := uint64(binary.LittleEndian.Uint32(entry[4:])), binary.LittleEndian.Uint64(entry[8:])
		if _, twice := c[kind]; twice || offset > uint64(len(b)) || size > uint64(len(b))-offset {
			return nil, errCertificate
		}
		c[kind] = b[offset:][:size]
	}
	return c, nil
}

// signatureSizes are those of the types of checksums. Who has a read-only copy
// of the KDC puts two bytes behind them.
var signatureSizes = map[int32]int{-138: 16, 15: 12, 16: 12, 19: 16, 20: 24}

// signature returns the type of a signature and the signature (MS-PAC, section
// 2.8), nil if there is none.
func (c certificate) signature(buffer uint32) (kind int32, sum []byte) {
	b := c[buffer]
	if len(b) < 4 {
		return 0, nil
	}
	kind, sum = int32(binary.LittleEndian.Uint32(b)), b[4:]
	if size, known := signatureSizes[kind]; known && size > len(sum) {
		return kind, nil
	} else if known {
		sum = sum[:size]
	}
	return kind, sum
}

// checkOwner returns an error if the client and its login are not the ticket's
// (PAC_CLIENT_INFO, MS-PAC, section 2.7).
func (c certificate) checkOwner(ticket *messages.EncTicketPart) error {
	b := c[bufferClient]
	if len(b) < 10 || len(b)-10 < int(binary.LittleEndian.Uint16(b[8:])) {
		return errCertificate
	}
	const perSecond, epoch = 1e7, 11644473600 // of FILETIME, which begins in 1601
	login := int64(binary.LittleEndian.Uint64(b)/perSecond) - epoch
	units := make([]uint16, binary.LittleEndian.Uint16(b[8:])/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[10+2*i:])
	}
	name := string(utf16.Decode(units))
	escape := strings.NewReplacer(`\`, `\\`, "/", `\/`)
	var components []string
	for _, component := range ticket.CName.NameString {
		components = append(components, escape.Replace(component))
	}
	if name != strings.Join(components, "/") {
		return fmt.Errorf("its certificate of groups is of %q", short(name))
	}
	if login != ticket.AuthTime.Unix() {
		return errors.New("its certificate of groups is of another login")
	}
	return nil
}

// groups reads KERB_VALIDATION_INFO (MS-PAC, section 2.5), in which all that is
// pointed to follows in the order of the pointers. A certificate without it,
// as MIT's KDC makes it, has no groups.
func (c certificate) groups() ([]string, error) {
	b, has := c[bufferLogon]
	if !has {
		return nil, nil
	}
	n := newNDR(b)
	n.take(6 * 8) // times
	var texts [8]bool
	for i := range 6 {
		texts[i] = n.stringPointer()
	}
	n.take(4 + 8) // counts of logons, user, primary group
	memberCount, members := n.uint32(), n.pointer()
	n.take(4 + 16) // flags, session key
	texts[6], texts[7] = n.stringPointer(), n.stringPointer()
	domain := n.pointer()
	n.take(40)
	extraCount, extras := n.uint32(), n.pointer()
	resourceDomain := n.pointer()
	resourceCount, resources := n.uint32(), n.pointer()

	n.skipStrings(texts[:6])
	memberIDs := n.relativeIDs(members, memberCount)
	n.skipStrings(texts[6:])
	groups := n.join(nil, n.sid(domain), memberIDs)
	groups = append(groups, n.sids(extras, extraCount)...)
	groups = n.join(groups, n.sid(resourceDomain), n.relativeIDs(resources, resourceCount))
	if n.failed {
		return nil, errCertificate
	}
	return groups, nil
}
