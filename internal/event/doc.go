// Package event serves many sockets in few goroutines, on Linux.
//
// A [Loop] waits for all of its sockets at once, by epoll. Handshakes are
// functions that read and write in order as elsewhere, but run as coroutines of
// the loop ([Task]); a relay is told of events by itself ([Watcher]). Neither
// needs a goroutine to be woken, which is most of what a short connection costs.
//
// On other systems there are no loops, and whoever asks gets what package net has.
package event
