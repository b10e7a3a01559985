//go:build !linux

package main

import (
	"context"
	"errors"
)

// runTun refuses: there is no such device here.
func runTun(_ context.Context, _ *commonFlags, f *tunFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	return errors.New("tun needs Linux: nothing here can lead packets to it")
}
