package krb5

import (
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/jcmturner/gokrb5/v8/iana/adtype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/pac"
	"github.com/jcmturner/gokrb5/v8/types"
)

// groupsOf returns the groups in the ticket's privilege attribute certificate
// (MS-PAC), which Active Directory makes. It must be signed with the service's
// key, which only the KDC has beside us, and be of this client: what a client has
// put into its ticket by itself does not count. A ticket without one is of a user
// without groups.
func groupsOf(ticket *messages.EncTicketPart, key types.EncryptionKey) (groups []string) {
	defer func() {
		if recover() != nil {
			groups = nil // malformed
		}
	}()
	for _, outer := range ticket.AuthorizationData {
		var inner types.AuthorizationData
		if outer.ADType != adtype.ADIfRelevant || inner.Unmarshal(outer.ADData) != nil {
			continue
		}
		for _, entry := range inner {
			if entry.ADType != adtype.ADWin2KPAC {
				continue
			}
			c, err := parseCertificate(entry.ADData)
			if err != nil || !c.isSigned(key) || !c.isOf(ticket) {
				continue
			}
			// Only now: what takes it apart believes any number in it.
			var info pac.KerbValidationInfo
			if info.Unmarshal(c.buffers[validationInfo]) == nil {
				return info.GetGroupMembershipSIDs()
			}
		}
	}
	return nil
}

// Kinds of buffers (MS-PAC, section 2.4).
const (
	validationInfo  = 1
	serverSignature = 6
	kdcSignature    = 7
	clientInfo      = 10
)

// A certificate is a PAC.
type certificate struct {
	bytes   []byte
	buffers map[uint32][]byte // within bytes; the first of a kind counts
}

// parseCertificate reads the directory of a PAC (MS-PAC, section 2.3).
func parseCertificate(b []byte) (*certificate, error) {
	malformed := errors.New("malformed PAC")
	c := &certificate{bytes: slices.Clone(b), buffers: make(map[uint32][]byte)}
	if len(b) < 8 {
		return nil, malformed
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if 8+16*n > uint64(len(b)) {
		return nil, malformed
	}
	for entry := range slices.Chunk(b[8:8+16*n], 16) {
		kind, size := binary.LittleEndian.Uint32(entry), uint64(binary.LittleEndian.Uint32(entry[4:]))
		offset := binary.LittleEndian.Uint64(entry[8:])
		if offset > uint64(len(b)) || size > uint64(len(b))-offset {
			return nil, malformed
		}
		if _, again := c.buffers[kind]; !again {
			c.buffers[kind] = c.bytes[offset : offset+size]
		}
	}
	return c, nil
}

// usageChecksum is KERB_NON_KERB_CKSUM_SALT.
const usageChecksum = 17

// isSigned reports whether the server's signature is by key. It is over all of the
// PAC, with zeros for the signatures (MS-PAC, section 2.8.1).
func (c *certificate) isSigned(key types.EncryptionKey) bool {
	e, err := checkKey(key)
	if err != nil {
		return false
	}
	sums, err := newSummer(key, usageChecksum)
	mine := c.buffers[serverSignature]
	if err != nil || len(mine) < 4+e.macSize || binary.LittleEndian.Uint32(mine) != uint32(e.checksumID()) {
		return false
	}
	signature := slices.Clone(mine[4 : 4+e.macSize])
	clear(mine[4 : 4+e.macSize])
	if theirs := c.buffers[kdcSignature]; len(theirs) > 4 {
		// Its own type says how long it is; an identifier may follow.
		clear(theirs[4 : 4+min(len(theirs)-4, signatureSize(binary.LittleEndian.Uint32(theirs)))])
	}
	return hmac.Equal(signature, sums.checksum(c.bytes))
}

// signatureSize is the length of a signature of a type (MS-PAC, section 2.8).
func signatureSize(kind uint32) int {
	for _, e := range enctypes {
		if uint32(e.checksumID()) == kind {
			return e.macSize
		}
	}
	return 16 // of HMAC-MD5
}

// isOf reports whether the PAC was made for the client of the ticket, when that
// logged in (MS-PAC, section 2.7).
func (c *certificate) isOf(ticket *messages.EncTicketPart) bool {
	b := c.buffers[clientInfo]
	if len(b) < 10 {
		return false
	}
	size := int(binary.LittleEndian.Uint16(b[8:]))
	if size%2 != 0 || 10+size > len(b) {
		return false
	}
	units := make([]uint16, size/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[10+2*i:])
	}
	name := string(utf16.Decode(units))
	return name == strings.Join(ticket.CName.NameString, "/") && fileTime(binary.LittleEndian.Uint64(b)).Equal(ticket.AuthTime)
}

// fileTime is a time of Windows, to the second: tenths of microseconds since 1601.
func fileTime(t uint64) time.Time {
	const epoch = 11_644_473_600 // seconds from 1601 to 1970
	return time.Unix(int64(t/10_000_000)-epoch, 0)
}
