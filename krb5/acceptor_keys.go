package krb5

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// path returns the keytab's.
func (a *Acceptor) path() (string, error) {
	return keytabPath(cmp.Or(a.Keytab, os.Getenv("KRB5_KTNAME"), "/etc/krb5.keytab"))
}

// Check reads the keytab and returns an error if nobody could be accepted. It
// should be called at the start, since Replays remember from then on.
func (a *Acceptor) Check() error {
	_, err := a.keys()
	return err
}

// Principals returns the principals in the keytab that tickets may be for.
func (a *Acceptor) Principals() []string {
	k, err := a.keys()
	if err != nil {
		return nil
	}
	return k.names(a.serves)
}

// Realms returns the realms of those principals.
func (a *Acceptor) Realms() (realms []string) {
	k, err := a.keys()
	if err != nil {
		return nil
	}
	for i := range k.entries {
		if e := &k.entries[i]; a.serves(e) {
			realms = add(realms, e.realm)
		}
	}
	return realms
}

func (a *Acceptor) serves(e *keyEntry) bool { return a.isService(e.name, e.realm) }

// isService reports whether a principal is the service.
func (a *Acceptor) isService(name []string, realm string) bool {
	service, only, has := strings.Cut(a.service(), "@")
	if has && realm != only {
		return false
	}
	if strings.Contains(service, "/") {
		return strings.Join(name, "/") == service
	}
	return len(name) > 0 && name[0] == service
}

// keys returns what is in the keytab. One that cannot be read now stays as it
// was, since whoever writes a keytab is not always careful; one that can be read
// is taken at its word.
func (a *Acceptor) keys() (*keys, error) {
	path, err := a.path()
	if err != nil {
		return nil, err
	}
	a.replays().begin(time.Now())
	a.mu.Lock()
	defer a.mu.Unlock()
	info, err := os.Stat(path)
	if err != nil || a.loaded == nil || stampOf(info) != a.loaded.stamp {
		err = a.load(path)
	}
	if a.loaded == nil {
		return nil, err
	}
	a.warn(err)
	return a.loaded, a.fit(a.loaded)
}

// load reads the keytab again. a.mu is held.
func (a *Acceptor) load(path string) error {
	k, err := loadKeys(path)
	if err == nil || errors.Is(err, errNoKeys) {
		a.loaded, err = k, nil
	}
	return err
}

// warn tells, once, why the keytab cannot be read any more. a.mu is held.
func (a *Acceptor) warn(err error) {
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	if err != nil && trouble != a.trouble {
		a.log().Warn("the keytab cannot be read any more, and the keys that it had still count", "keytab", a.loaded.path, "err", err)
	}
	a.trouble = trouble
}

// fit returns an error if nobody can be accepted with the keys.
func (a *Acceptor) fit(k *keys) error {
	if len(k.entries) == 0 {
		return fmt.Errorf("keytab %s: %w", k.path, errNoKeys)
	}
	found := false
	for i := range k.entries {
		if e := &k.entries[i]; a.serves(e) {
			if _, err := checkKey(e.key); err == nil {
				return nil
			}
			found = true
		}
	}
	if found {
		return fmt.Errorf("keytab %s: no key of %s is of AES", k.path, a.service())
	}
	return fmt.Errorf("keytab %s: no key of the service %s, only of %s", k.path, a.service(), k.listNames())
}
