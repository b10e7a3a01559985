package krb5

import (
	"encoding/binary"
	"log/slog"
	"slices"

	"github.com/jcmturner/gokrb5/v8/iana/adtype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/pac"
	"github.com/jcmturner/gokrb5/v8/types"
)

// groupsOf returns the groups in the ticket's privilege attribute certificate
// (MS-PAC), which Active Directory makes. It must be signed with the service's
// key, which only the KDC has beside us: what a client has put into its ticket
// by itself does not count. A ticket without one is of a user without groups.
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
			var p pac.PACType
			if entry.ADType != adtype.ADWin2KPAC || !plausible(entry.ADData) || p.Unmarshal(entry.ADData) != nil {
				continue
			}
			if p.ProcessPACInfoBuffers(key, slog.NewLogLogger(slog.DiscardHandler, 0)) == nil && p.KerbValidationInfo != nil {
				return p.KerbValidationInfo.GetGroupMembershipSIDs()
			}
		}
	}
	return nil
}

// plausible reports whether the directory of a PAC (MS-PAC, section 2.3) is within
// its bytes: room is made for as many buffers as it says, before it is verified.
func plausible(b []byte) bool {
	if len(b) < 8 {
		return false
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if 8+16*n > uint64(len(b)) {
		return false
	}
	for entry := range slices.Chunk(b[8:8+16*n], 16) {
		size, offset := uint64(binary.LittleEndian.Uint32(entry[4:])), binary.LittleEndian.Uint64(entry[8:])
		if offset > uint64(len(b)) || size > uint64(len(b))-offset {
			return false
		}
	}
	return true
}
