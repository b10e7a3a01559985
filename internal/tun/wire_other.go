//go:build !linux

package tun

import "io"

// newWire returns the way to a device.
func newWire(device io.ReadWriter, header int) wire { return newPlainWire(device, header) }
