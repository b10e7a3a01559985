//go:build profile

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
)

// startProfile begins to profile serve, for make profile: stop writes files of the
// processor's time and of allocations into the folder that ARGYLE_PROFILE names.
func startProfile() (stop func(), err error) {
	dir := os.Getenv("ARGYLE_PROFILE")
	if dir == "" {
		return nil, errors.New("ARGYLE_PROFILE is not set: want a folder")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	name := func(kind string) string { return filepath.Join(dir, fmt.Sprintf("%s-%d.prof", kind, os.Getpid())) }
	cpu, err := os.Create(name("cpu"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		cpu.Close()
		allocs, err := os.Create(name("allocs"))
		if err != nil {
			return
		}
		defer allocs.Close()
		runtime.GC() // its figures are those of the last collection
		_ = pprof.Lookup("allocs").WriteTo(allocs, 0)
	}, nil
}
