// Package names looks up the addresses of host names: through the system's
// resolver, or through name servers of one's own over UDP, TCP, TLS (RFC 7858)
// and HTTPS (RFC 8484), with other servers for some zones and a cache.
//
//	server, err := names.ParseServer("tls://192.0.2.53?name=dns.example")
//	...
//	resolver := &names.Resolver{Servers: []names.Server{server}}
//	defer resolver.Close()
//	addrs, err := resolver.LookupNetIP(ctx, "ip", "www.example")
package names
