// Package netns runs a program in a user, network and mount namespace of its own,
// without root. It needs Linux.
//
// [Start] makes the namespaces and a child of ours in them, whose Hook there opens
// what we are to serve; [World.Run] has the program started and waits for it. The
// child stays in the namespace and opens sockets there for us. The program has no
// way out but those sockets: when we are gone, it has none.
//
//	if netns.IsChild() { // first thing in main
//		netns.RunChild(hook)
//	}
//	w, err := netns.Start(ctx, netns.Config{Argv: []string{"curl", "http://example.com/"}})
//	go serve(w.File("tcp"))
//	status, err := w.Run()
//	w.Close()
//	status.Exit()
package netns
