package users

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Set writes name with an argon2id hash of password to the users file path: in
// place of the user's line, or after the last one. All other lines stay byte
// for byte. The file is replaced as a whole, with mode 0600 and the owner that
// it had; it is made if it is absent. Of a symbolic link, the target is.
//
// Names and passwords that no client can send, or the file cannot hold, are
// refused. Runs at the same time wait for each other.
func Set(path, name, password string) error {
	if err := errors.Join(checkName(name), checkPassword(password)); err != nil {
		return err
	}
	path, err := resolve(path)
	if err != nil {
		return err
	}
	line := name + ":" + Hash(password) // takes its time, so before the lock
	unlock, err := lock(path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	data, info, err := readFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if info != nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", path)
	}
	data, err = edit(path, data, name, line)
	if err != nil {
		return err
	}
	return replace(path, data, info)
}

// resolve follows symbolic links to what path names. It may be absent, but
// then path must not be a link to it.
func resolve(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s: the symbolic link leads nowhere", path)
	}
	return path, nil
}

// edit returns data with name's line replaced by line, or with line at the end.
func edit(path string, data []byte, name, line string) ([]byte, error) {
	var out []byte
	number, found, ending := 0, 0, "\n"
	for old := range bytes.Lines(data) {
		number++
		ending = lineEnding(old)
		if !bytes.HasPrefix(old, []byte(name+":")) {
			out = append(out, old...)
			continue
		}
		if found > 0 {
			return nil, fmt.Errorf("%s:%d:1: the name is already on line %d: remove one", path, number, found)
		}
		found = number
		out = append(append(out, line...), ending...)
	}
	if found > 0 {
		return out, nil
	}
	if len(out) > 0 && ending == "" {
		ending = "\n"
		out = append(out, ending...)
	}
	return append(append(out, line...), ending...), nil
}

// lineEnding returns what line ends with: "\r\n", "\n", or nothing as the last
// line may.
func lineEnding(line []byte) string {
	switch {
	case bytes.HasSuffix(line, []byte("\r\n")):
		return "\r\n"
	case bytes.HasSuffix(line, []byte("\n")):
		return "\n"
	}
	return ""
}

// replace puts a file with data in the place of path, where info is what it
// replaces or nil. Whoever opens path sees one of the two, whole.
func replace(path string, data []byte, info os.FileInfo) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	defer f.Close() // again, if all goes well
	if _, err := f.Write(data); err != nil {
		return err
	}
	if info != nil {
		keepOwner(f, info)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}
