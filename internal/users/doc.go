// Package users keeps the users file and decides who may log in: with
// username and password of SOCKS 5 (RFC 1929) and with HTTP Basic (RFC 7617).
//
// The file has one name:hash a line and # comments. [Open] reads it, [Set]
// changes it, and a [Gate] answers logins, slowing down those who guess:
//
//	store, err := users.Open("/etc/argyle/users")
//	if err != nil {
//		return err
//	}
//	gate := users.NewGate(store, new(users.Guard))
//	err = gate.Login(ctx, client.Addr(), "ann", "correct horse")
//
// No password and no hash is ever part of an error.
package users
