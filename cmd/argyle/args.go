package main

import (
	"os"
	"runtime"
	"strings"
	"unsafe"
)

// ownArgs returns a copy of the command line's arguments. In the process's own
// memory, where others on this host read them, passwords of proxies become stars.
func ownArgs() []string {
	args := make([]string, 0, len(os.Args))
	for _, arg := range os.Args[1:] {
		args = append(args, strings.Clone(arg))
	}
	if runtime.GOOS == "windows" {
		return args // there they are a copy already
	}
	for i, arg := range args {
		from, to := passwordIn(args[:i], arg)
		if from == to {
			continue
		}
		// The runtime's strings are those that the kernel has put there.
		b := unsafe.Slice(unsafe.StringData(os.Args[1+i]), len(arg))
		for j := from; j < to; j++ {
			b[j] = '*'
		}
	}
	return args
}

// passwordIn returns where in an argument, of which before are those before it,
// the password of a proxy URL is; nowhere if from is to.
func passwordIn(before []string, arg string) (from, to int) {
	url := 0
	switch {
	case len(before) > 0 && (before[len(before)-1] == "-x" || before[len(before)-1] == "--proxy"):
	case strings.HasPrefix(arg, "--proxy="):
		url = len("--proxy=")
	case strings.HasPrefix(arg, "-x"):
		url = len("-x")
	default:
		return 0, 0
	}
	if i := strings.Index(arg[url:], "://"); i >= 0 {
		url += i + len("://")
	}
	at := strings.LastIndexByte(arg, '@')
	colon := strings.IndexByte(arg[url:], ':')
	if at < url || colon < 0 || url+colon > at {
		return 0, 0
	}
	return url + colon + 1, at
}
