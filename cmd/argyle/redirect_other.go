//go:build !linux

package main

import (
	"context"
	"errors"
)

// runRedirect refuses: nothing leads connections here.
func runRedirect(_ context.Context, _ *commonFlags, f *redirectFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	return errors.New("redirect needs Linux: nothing here can lead connections to it")
}
