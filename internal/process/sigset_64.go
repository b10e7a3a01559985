//go:build linux && !mips && !mipsle && !mips64 && !mips64le

package process

// sigsetSize is the size of the kernel's set of signals.
const sigsetSize = 8
