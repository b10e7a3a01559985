//go:build !linux

package main

import (
	"context"
	"errors"
)

// becomeChild does nothing: there are engines on Linux only.
func becomeChild() {}

// runProgram refuses: nothing can hold a program here.
func runProgram(_ context.Context, _ *commonFlags, f *runFlags, _ []string) error {
	if err := f.check(); err != nil {
		return err
	}
	return &exitError{code: exitNotStarted, err: errors.New("run needs Linux: nothing can hold a program here")}
}
