package main

// The numbers by which this host's routing and firewall know us. All commands
// have them here, so that no two use one for different things.
const (
	// ownMark is the mark of our own sockets: what carries it is never taken.
	ownMark = 0x61726779

	// Of argyle tun: a table of routes for all traffic, one for look-ups, and the
	// first of its rules' priorities.
	tableTun     = 61726
	tableTunDNS  = 61727
	priorityTun  = 6170
	nameTun      = "tun" // of the record of its changes
	tunDevice    = "argyle0"
	tunRuleCount = 10
)
