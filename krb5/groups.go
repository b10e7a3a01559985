package krb5

import (
	"log/slog"

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
			if entry.ADType != adtype.ADWin2KPAC || p.Unmarshal(entry.ADData) != nil {
				continue
			}
			if p.ProcessPACInfoBuffers(key, slog.NewLogLogger(slog.DiscardHandler, 0)) == nil && p.KerbValidationInfo != nil {
				return p.KerbValidationInfo.GetGroupMembershipSIDs()
			}
		}
	}
	return nil
}
