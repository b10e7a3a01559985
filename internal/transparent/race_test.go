//go:build race

package transparent

// raced is whether the race detector is at work: it makes sync.Pool lose things.
const raced = true
