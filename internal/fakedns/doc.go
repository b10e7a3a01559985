// Package fakedns answers names with addresses that stand for them, so that a
// program which can only hold an address still tells the proxy a name. It is
// the DNS name resolving delegation of RFC 3089, section 3, as a DNS server.
//
// A [Pool] gives each name one address of either family and knows the way
// back. A [Server] answers queries from it, and hands questions for other
// types to somebody who knows:
//
//	pool, err := fakedns.Open(fakedns.Options{})
//	...
//	server := &fakedns.Server{Pool: pool}
//	reply := server.Answer(ctx, client, query, false)
//	...
//	if name, ok := pool.Name(dest.Addr()); ok { // dial the name
//	} else if pool.Contains(dest.Addr()) { // refuse: it stands for nothing
//	}
package fakedns
