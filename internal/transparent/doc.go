// Package transparent makes calls of traffic whose clients know of no proxy:
// connections and datagrams that rules of the system lead here (TPROXY,
// REDIRECT), or that come to a port which stands for one destination.
//
// A [Server] takes TCP, a [PacketServer] UDP. On Linux [Rules] are the nftables
// rules of a network namespace whose every packet comes here, [ListenTCP] and
// [ListenUDP] are the sockets that they lead to, and [OpenQueue] is where the
// SYNs wait that [Server.Hold] answers, so that a client's connect has the
// result that the proxy's had:
//
//	ln, err := transparent.ListenTCP()
//	rules := transparent.Rules{Table: "argyle", TCP: port(ln.Addr()), Except: own, From: own}
//	err = rules.Install()
//	s := &transparent.Server{Handler: proxy}
//	err = s.Serve(ln)
package transparent
