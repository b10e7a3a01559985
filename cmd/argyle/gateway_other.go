//go:build !linux

package main

import (
	"context"
	"errors"
)

// runGateway refuses: nothing leads connections here.
func runGateway(_ context.Context, _ *commonFlags, f *gatewayFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	return errors.New("gateway needs Linux: nothing here can lead connections to it")
}
