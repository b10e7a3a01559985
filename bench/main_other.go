//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: needs Linux, it reads processor time and memory from /proc")
	os.Exit(1)
}
