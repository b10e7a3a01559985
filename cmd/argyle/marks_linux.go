package main

// The numbers by which this host's routing and firewall know us, that more than one
// command has to know of. Those of what redirect and gateway have in common are at
// [interception].

// ownMark is the mark of our own sockets, which no command takes the packets of.
const ownMark = 0x61726779

// Those of tun: the mark of look-ups that are routed once more, the priority of the
// first of its rules, and its routing tables, of which the second is for look-ups.
const (
	tunMark      = 0x61726720
	tunPriority  = 120
	tunTable     = 61720
	tunNameTable = 61721
)
