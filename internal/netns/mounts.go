//go:build linux

package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultMask returns the unix sockets of services that look names up for the
// program, past us: nscd, nss-resolve, mdns, sssd and the like.
func DefaultMask() []string {
	return []string{
		"/run/nscd/socket", "/run/.nscd_socket", "/var/db/nscd/socket", "/run/unscd/socket",
		"/run/systemd/resolve/io.systemd.*", "/run/systemd/resolve.hook/*",
		"/run/avahi-daemon/socket", "/run/mdnsd", "/run/dnsmasq/*", "/run/dns/*", "/run/dnscrypt-proxy/*",
		"/var/lib/sss/pipes/*", "/var/lib/sss/pipes/private/*", "/run/slapd/*", "/run/nslcd/socket",
		"/run/systemd/userdb/io.systemd.Resolve*",
	}
}

// prepareMounts hides the sockets of mask (see [Config]), and has the C library
// look names up by files and DNS alone, should one of them be opened anew.
func prepareMounts(mask []string, resolver bool) error {
	// What is mounted outside may still appear here, and go.
	if err := mount("", "/", unix.MS_REC|unix.MS_SLAVE); err != nil {
		return denied(err)
	}
	if mask == nil {
		mask = DefaultMask()
	}
	for _, pattern := range mask {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("hide %s: %w", pattern, err)
		}
		for _, path := range paths {
			if err := hide(path); err != nil {
				return fmt.Errorf("hide %s: %w", path, err)
			}
		}
	}
	return replaceFiles(resolver)
}

func mount(source, target string, flags uintptr) error {
	if err := unix.Mount(source, target, "", flags, ""); err != nil {
		return &os.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

// hide puts /dev/null in the place of a socket: connect fails with ECONNREFUSED.
func hide(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // it has gone, or the program cannot reach it either
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return nil
	}
	return mount("/dev/null", path, unix.MS_BIND)
}

// replaceFiles puts other contents in the place of files that say how names are
// looked up.
func replaceFiles(resolver bool) error {
	files := make(map[string][]byte)
	if text, err := os.ReadFile(pathSwitch); err == nil {
		if plain := plainHosts(text); !bytes.Equal(plain, text) {
			files[pathSwitch] = plain
		}
	}
	if resolver {
		// There are resolvers that do not lead to us: with a device those
		// on loopback, and link-local ones.
		files[pathResolv] = resolvConf()
	}
	if len(files) == 0 {
		return nil
	}
	return replace(files)
}

const (
	pathSwitch = "/etc/nsswitch.conf"
	pathResolv = "/etc/resolv.conf"
)

// plainHosts returns an nsswitch.conf that looks hosts up in files and by DNS, in
// the order that it had, and nowhere else.
func plainHosts(text []byte) []byte {
	var out []byte
	for line := range bytes.Lines(text) {
		rule, _, _ := bytes.Cut(line, []byte("#"))
		key, value, ok := bytes.Cut(rule, []byte(":"))
		if ok && string(bytes.TrimSpace(key)) == "hosts" {
			line = plainRule(line, strings.Fields(string(value)))
		}
		out = append(out, line...)
	}
	return out
}

func plainRule(line []byte, services []string) []byte {
	plain := slices.DeleteFunc(slices.Clone(services), func(s string) bool {
		return s != "files" && s != "dns" && s != "myhostname"
	})
	if !slices.Contains(plain, "dns") {
		plain = append(plain, "dns")
	}
	if slices.Equal(plain, services) {
		return line
	}
	return []byte("hosts: " + strings.Join(plain, " ") + "\n")
}

// manyDots are names that are looked up below the search list first: all of them
// would be there, under another name.
var manyDots = regexp.MustCompile(`\bndots:[0-9]+`)

// resolvConf returns the system's resolv.conf with another nameserver.
func resolvConf() []byte {
	text, err := os.ReadFile(pathResolv)
	if err != nil {
		text = nil
	}
	var out []byte
	for line := range bytes.Lines(text) {
		line = manyDots.ReplaceAll(line, nil)
		if fields := bytes.Fields(line); len(fields) > 0 && string(fields[0]) != "nameserver" {
			out = append(out, bytes.TrimRight(line, "\n")...)
			out = append(out, '\n')
		}
	}
	return append(out, "nameserver 192.0.0.1\n"...)
}

// replace mounts files over others. They live in a file system without a name
// that goes with the namespace, and nothing of them is seen outside.
func replace(files map[string][]byte) error {
	const dir = "/tmp"
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return &os.PathError{Op: "mount", Path: dir, Err: err}
	}
	for path, text := range files {
		err := replaceOne(filepath.Join(dir, filepath.Base(path)), path, text)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return &os.PathError{Op: "unmount", Path: dir, Err: err}
	}
	return nil
}

func replaceOne(source, target string, text []byte) error {
	if _, err := os.Stat(target); err != nil {
		return err // there is nothing to be mounted over
	}
	if err := os.WriteFile(source, text, 0o444); err != nil {
		return err
	}
	return mount(source, target, unix.MS_BIND)
}
