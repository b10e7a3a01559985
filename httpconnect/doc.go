// Package httpconnect implements proxying by HTTP/1.1 for both sides: [Server]
// makes a call of every CONNECT (RFC 9110, section 9.3.6) and of every request
// for an absolute URL (RFC 9112, section 3.2.2), and [Dialer] goes through
// another proxy by CONNECT.
//
//	d := &httpconnect.Dialer{Addr: "gw.example:8080"}
//	conn, err := d.DialContext(ctx, "tcp", "host.example:80")
package httpconnect
