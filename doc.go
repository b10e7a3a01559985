// Package argyle holds the nouns that every part of the SOCKS toolkit shares.
//
// A way in (a SOCKS server, an HTTP CONNECT server, a redirected connection)
// turns what it receives into a [Call]: a [Request] that waits for its answer.
// A way out is a [Dialer]. A [Handler], normally a proxy.Proxy, joins the two.
//
// SOCKS has three commands (RFC 1928, section 4), and each has one method on
// either side:
//
//	CONNECT        Dialer.DialContext   Call.Accept
//	BIND           Dialer.Listen        Call.AcceptBind
//	UDP ASSOCIATE  Dialer.ListenPacket  Call.AcceptPacket
//
// [Direct] is the Dialer that uses no proxy.
package argyle
