//go:build !linux

package fakedns

func worldMain() {}
