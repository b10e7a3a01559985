//go:build linux

package process

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Find looks for a program in the PATH of env, as execvp does. What is wrong with
// a name that has a slash is for exec to say.
func Find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	found := error(&exec.Error{Name: name, Err: exec.ErrNotFound})
	list := lookUp(env, "PATH")
	if list == "" {
		list = "/bin:/usr/bin"
	}
	for _, dir := range filepath.SplitList(list) {
		if dir == "" {
			dir = "."
		}
		path := dir + "/" + name
		info, err := os.Stat(path)
		if name == "" || err != nil || info.IsDir() {
			continue
		}
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
		found = &fs.PathError{Op: "exec", Path: path, Err: unix.EACCES}
	}
	return "", found
}

func lookUp(env []string, name string) (value string) {
	for _, entry := range env {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v // the last one counts
		}
	}
	return value
}

// ExitCode returns the exit status for an error of starting a program, as env
// and docker have it: 127 if it is not found, 126 if it cannot be executed, 125
// for all else.
func ExitCode(err error) int {
	var path *fs.PathError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return 127
	case !errors.As(err, &path) || path.Op != "exec":
		return 125
	case errors.Is(err, fs.ErrNotExist):
		return 127
	}
	return 126
}
