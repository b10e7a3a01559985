//go:build !profile

package main

// startProfile does nothing: see make profile.
func startProfile() (stop func(), err error) { return func() {}, nil }
