// Package hostnet changes how this host routes, on Linux, and takes the changes
// back: when the program ends, when it is killed, or by hand. It keeps a record
// of what it has changed before it changes it, and a process of its own, the
// keeper, that outlives the program and sets right what is left.
//
//	changes, err := hostnet.Open("redirect")
//	...
//	defer changes.Close()
//	err = changes.Rule(rule)
package hostnet
