// Package socks implements SOCKS 4, 4a and 5 for both sides: [Server] makes a
// call of every request, and [Dialer] goes through another server.
//
// It follows RFC 1928 (SOCKS 5: CONNECT, BIND, UDP ASSOCIATE with IPv4, IPv6
// and names), RFC 1929 (username/password), and the memos of SOCKS 4 and 4a.
//
//	d := &socks.Dialer{Addr: "gw.example:1080"}
//	conn, err := d.DialContext(ctx, "tcp", "host.example:80")
package socks
