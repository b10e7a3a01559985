package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/krb5"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// openGSSAPI reads the keytab of those who log in by Kerberos tickets.
func (set *setup) openGSSAPI(w *world) error {
	if set.file.Auth == nil || set.file.Auth.GSSAPI == nil {
		return nil
	}
	of := set.file.Auth.GSSAPI
	acceptor := &krb5.Acceptor{Service: of.Service, Replays: &w.replays, Log: w.log}
	if of.Keytab != "" {
		acceptor.Keytab = set.file.Path(strings.TrimPrefix(of.Keytab, "FILE:"))
	}
	if err := acceptor.Check(); err != nil {
		return set.file.Errorf("auth.gssapi.keytab", "%w", err)
	}
	k := &kerberos{acceptor: acceptor, principals: of.Principals, names: of.Map, log: w.log}
	set.gssapi = &socks.GSSAPI{
		Accept:    func() socks.SecurityContext { return acceptor.Accept() },
		Identify:  k.identify,
		ClearOnly: of.Level == config.LevelClearOnly,
		NEC:       of.NEC,
	}
	switch of.Level {
	case config.LevelIntegrity:
		set.gssapi.Level = wire.Integrity
	case config.LevelConfidentiality:
		set.gssapi.Level = wire.Confidentiality
	}
	return nil
}

// kerberos says who the owner of a ticket is.
type kerberos struct {
	acceptor   *krb5.Acceptor
	principals []string          // who may log in; nil are those of the keytab's realms
	names      map[string]string // user names by pattern
	log        *slog.Logger
}

var errPrincipal = errors.New("this principal may not log in: auth.gssapi.principals does not have it")

// identify returns the user of an established context.
func (k *kerberos) identify(_ context.Context, sec socks.SecurityContext) (socks.Identity, error) {
	peer := sec.Peer()
	if !k.admits(peer) {
		return socks.Identity{}, errPrincipal
	}
	identity := socks.Identity{User: k.user(peer)}
	if strings.HasPrefix(identity.User, "sid:") || identity.User == "" {
		return socks.Identity{}, fmt.Errorf("this principal stands for %q, which is no user name", identity.User)
	}
	if c, ok := sec.(*krb5.Context); ok {
		for _, group := range c.Groups() {
			identity.Groups = append(identity.Groups, "sid:"+group)
		}
	}
	k.log.Debug("ticket accepted", "principal", peer, "user", identity.User, "groups", identity.Groups)
	return identity, nil
}

// admits reports whether a principal may log in.
func (k *kerberos) admits(peer string) bool {
	if strings.Count(strings.ReplaceAll(peer, `\\`, ""), `\@`) > 0 {
		return false // an @ in a name or a realm would be taken for the one between them
	}
	if k.principals == nil {
		// Anybody can be nobody (RFC 8062).
		if strings.HasPrefix(peer, "WELLKNOWN/") {
			return false
		}
		return slices.Contains(k.acceptor.Realms(), ticketRealm(peer))
	}
	return slices.ContainsFunc(k.principals, func(pattern string) bool {
		_, ok := stands(pattern, peer)
		return ok
	})
}

// ticketRealm returns what is after the last @ of a principal.
func ticketRealm(principal string) string { return principal[strings.LastIndexByte(principal, '@')+1:] }

// user returns the user that a principal is: by the longest pattern that
// matches it, the first in alphabetical order of those.
func (k *kerberos) user(peer string) string {
	patterns := slices.SortedFunc(maps.Keys(k.names), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	for _, pattern := range patterns {
		if parts, ok := stands(pattern, peer); ok {
			var name strings.Builder
			for i, piece := range strings.Split(k.names[pattern], "*") {
				if i > 0 && i <= len(parts) {
					name.WriteString(parts[i-1])
				} else if i > 0 {
					name.WriteByte('*')
				}
				name.WriteString(piece)
			}
			return name.String()
		}
	}
	return peer
}

// stands reports whether a pattern matches a principal, and what each * in it
// stands for: as little as it can, the last as much as it must. The realm is
// matched by itself, so that no name can reach into it.
func stands(pattern, principal string) (parts []string, ok bool) {
	at, end := strings.LastIndexByte(pattern, '@'), strings.LastIndexByte(principal, '@')
	name, ok := globParts(pattern[:at], principal[:end])
	if !ok {
		return nil, false
	}
	realm, ok := globParts(pattern[at+1:], principal[end+1:])
	return append(name, realm...), ok
}

// globParts matches s with a pattern in which * is any text.
func globParts(pattern, s string) (parts []string, ok bool) {
	first, rest, more := strings.Cut(pattern, "*")
	if !more {
		return nil, s == pattern
	}
	if !strings.HasPrefix(s, first) {
		return nil, false
	}
	s = s[len(first):]
	for n := range len(s) + 1 {
		if after, ok := globParts(rest, s[n:]); ok {
			return append([]string{s[:n]}, after...), true
		}
	}
	return nil, false
}
