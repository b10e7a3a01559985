//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package fakedns

import "os"

// lock does nothing: these systems have no lock that ends with its process.
func lock(*os.File) error { return nil }

// syncDir does nothing: these systems cannot open a directory to that end.
func syncDir(string) {}
