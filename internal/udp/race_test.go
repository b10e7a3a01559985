//go:build race

package udp

// raced is whether the race detector is at work: it makes sync.Pool lose things.
const raced = true
