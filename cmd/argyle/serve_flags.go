package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/upstream"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	listen       []string
	users        string
	cert, key    string
	clientCA     string
	allow        []string
	open         bool
	allowPrivate bool
	drain        time.Duration

	given func(flag string) bool // whether a flag is on the command line
}

// file returns the configuration that file and flags make together; a flag
// stands in place of what the file says.
func (f *serveFlags) file(common *commonFlags) (*config.File, error) {
	if common.config == "" {
		file := new(config.File)
		return file, f.enter(common, file)
	}
	loader := newLoader(common.config)
	loader.Flags = func(file *config.File) error { return f.enter(common, file) }
	return loader.Load(common.config)
}

// newLoader returns what reads the configuration at path.
func newLoader(path string) *config.Loader {
	root := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(filepath.Dir(path), name)
	}
	return &config.Loader{ProxyURL: func(url string) error {
		_, err := upstream.Parse(rooted(root, url), nil)
		return inner(err)
	}}
}

// loadFile reads a configuration as it is, without flags.
func loadFile(path string) (*config.File, error) { return newLoader(path).Load(path) }

// enter puts the flags into a configuration.
func (f *serveFlags) enter(common *commonFlags, file *config.File) (err error) {
	if err := f.listeners(file); err != nil {
		return err
	}
	if f.users != "" {
		if file.Users == nil {
			file.Users = new(config.Users)
		}
		file.Users.File = common.path(f.users)
		file.SetOrigin("users.file", "--users")
	}
	if err := f.tls(common, file); err != nil {
		return err
	}
	if len(f.allow) > 0 {
		if file.Allow, err = parseNetworks("--allow", f.allow); err != nil {
			return err
		}
	}
	file.Open = file.Open || f.open
	file.AllowPrivate = file.AllowPrivate || f.allowPrivate
	if f.given("drain") || file.Drain == nil {
		drain := config.Duration(f.drain)
		file.Drain = &drain
	}
	return common.enterProxies(file)
}

// listeners are those of -l.
func (f *serveFlags) listeners(file *config.File) error {
	if len(f.listen) == 0 {
		return nil
	}
	file.Listen = nil
	for i, address := range f.listen {
		if err := checkListen(address); err != nil {
			return usagef("--listen %q: %w", address, err)
		}
		if strings.HasPrefix(address, "systemd:") && slices.Contains(f.listen[:i], address) {
			return usagef("--listen %s is there twice", address) // its descriptors have been taken
		}
		file.Listen = append(file.Listen, config.Listener{Address: address})
		file.SetOrigin(fmt.Sprintf("listen[%d]", i), "--listen "+address)
	}
	return nil
}

// tls is the certificate of the flags.
func (f *serveFlags) tls(common *commonFlags, file *config.File) error {
	switch {
	case f.cert == "" && f.key == "" && f.clientCA == "":
		return nil
	case f.cert == "" || f.key == "":
		return usagef("--tls-cert and --tls-key belong together, and --tls-client-ca needs both")
	}
	file.TLS = &config.TLS{Cert: common.path(f.cert), Key: common.path(f.key)}
	if f.clientCA != "" {
		file.TLS.ClientCA = common.path(f.clientCA)
	}
	file.SetOrigin("tls", fmt.Sprintf("--tls-cert %s, --tls-key %s", f.cert, f.key))
	return nil
}

// enterProxies puts those of -x into a configuration. A wrong URL there is a
// wrong command line.
func (f *commonFlags) enterProxies(file *config.File) error {
	if len(f.proxies) == 0 {
		return nil
	}
	if _, err := chain(f.proxies, upstream.Checks{}); err != nil {
		return err
	}
	file.Proxy = nil
	for i, url := range f.proxies {
		file.Proxy = append(file.Proxy, config.ProxyURL(url))
		file.SetOrigin(fmt.Sprintf("proxy[%d]", i), "--proxy")
	}
	return nil
}
