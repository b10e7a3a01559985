package krb5

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
)

// settings are what an initiator takes from krb5.conf.
type settings struct {
	*config.Config // what requests are made of: its LibDefaults

	cacheName string              // default_ccache_name
	kdcs      map[string][]string // by realm
	realms    map[string]string   // by host, or by domain with a dot before
}

// loadSettings reads krb5.conf. Without one, KDCs are found by DNS. Lines of
// [libdefaults] that are not understood are left out and told.
func loadSettings(paths string, log *slog.Logger) (*settings, error) {
	p, err := loadProfile(paths)
	if err != nil {
		return nil, err
	}
	return newSettings(p, log)
}

func newSettings(p profile, log *slog.Logger) (*settings, error) {
	s := &settings{Config: config.New(), kdcs: make(map[string][]string), realms: make(map[string]string)}
	for _, realm := range p["realms"] {
		for _, r := range realm.within {
			if r.key != "kdc" {
				continue
			}
			address, err := kdcAddress(r.value)
			if err != nil {
				return nil, fmt.Errorf("%s: kdc = %s: %w", r.at, r.value, err)
			}
			s.kdcs[realm.key] = append(s.kdcs[realm.key], address)
		}
	}
	for _, r := range p["domain_realm"] {
		if _, again := s.realms[strings.ToLower(r.key)]; !again && r.within == nil {
			s.realms[strings.ToLower(r.key)] = r.value
		}
	}
	defaults := first(p["libdefaults"])
	s.cacheName = defaults["default_ccache_name"].value
	s.take(defaults, log)
	return s, s.chooseTypes(defaults)
}

// first returns relations with values by their keys: of several, the first counts.
func first(all []relation) map[string]relation {
	found := make(map[string]relation)
	for _, r := range all {
		if _, again := found[r.key]; !again && r.within == nil {
			found[r.key] = r
		}
	}
	return found
}

// take takes what gokrb5 understands of [libdefaults].
func (s *settings) take(defaults map[string]relation, log *slog.Logger) {
	lines := []string{"[libdefaults]", "dns_lookup_kdc = true"} // the default of MIT's library
	for _, r := range defaults {
		if strings.HasSuffix(r.key, "_enctypes") {
			continue
		}
		line := r.key + " = " + r.value
		if _, err := parseDefaults([]string{lines[0], line}); err != nil {
			log.Warn("a line of krb5.conf is left out", "at", r.at, "line", line, "err", err)
			continue
		}
		lines = append(lines, line)
	}
	if c, err := parseDefaults(lines); err == nil { // each has been read already
		s.Config = c
	}
}

// parseDefaults does not mind what gokrb5 says it does not support.
func parseDefaults(lines []string) (c *config.Config, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed: %v", r)
		}
	}()
	c, err = config.NewFromString(strings.Join(lines, "\n"))
	var unsupported config.UnsupportedDirective
	if errors.As(err, &unsupported) {
		err = nil
	}
	return c, err
}

// kdcAddress returns what to dial for the value of kdc.
func kdcAddress(value string) (string, error) {
	host := strings.TrimSuffix(value, "*")
	for _, prefix := range []string{"tcp/", "udp/"} { // a KDC that answers on one answers on the other
		host = strings.TrimPrefix(host, prefix)
	}
	host, _, _ = strings.Cut(host, " ") // what some have written after it
	if host == "" || strings.Contains(host, "/") {
		return "", errors.New("want HOST or HOST:PORT")
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	} else if _, port, err := net.SplitHostPort(host); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("port %q, want a number from 1 to 65535", port)
		}
		return host, nil
	}
	return net.JoinHostPort(host, "88"), nil
}

// realmOf returns the realm that krb5.conf names for a host; "" if it does not.
func (s *settings) realmOf(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if realm, ok := s.realms[host]; ok {
		return realm
	}
	for _, rest, found := strings.Cut(host, "."); found; _, rest, found = strings.Cut(rest, ".") {
		for _, key := range []string{"." + rest, rest} {
			if realm, ok := s.realms[key]; ok {
				return realm
			}
		}
	}
	return ""
}

// kdcsOf returns the addresses of a realm's KDCs, from krb5.conf or from DNS
// (RFC 4120, section 7.2.3.2).
func (s *settings) kdcsOf(ctx context.Context, realm string) ([]string, error) {
	if kdcs := s.kdcs[realm]; len(kdcs) > 0 {
		return kdcs, nil
	}
	if !s.LibDefaults.DNSLookupKDC {
		return nil, fmt.Errorf("no KDC of %s is known: name it in krb5.conf", realm)
	}
	ctx, cancel := context.WithTimeout(ctx, kdcTimeout)
	defer cancel()
	_, records, err := net.DefaultResolver.LookupSRV(ctx, "kerberos", "tcp", realm+".")
	if err != nil {
		return nil, fmt.Errorf("no KDC of %s is known: name it in krb5.conf, or let DNS have it: %w", realm, err)
	}
	var kdcs []string
	for _, r := range records {
		if host := strings.TrimSuffix(r.Target, "."); host != "" {
			kdcs = append(kdcs, net.JoinHostPort(host, strconv.Itoa(int(r.Port))))
		}
	}
	if len(kdcs) == 0 {
		return nil, fmt.Errorf("DNS says that %s has no KDC", realm)
	}
	return kdcs, nil
}

// defaultTypes are in the order of MIT's library.
var defaultTypes = []int32{18, 17, 20, 19}

// chooseTypes takes the lists of encryption types, of which those of AES count.
func (s *settings) chooseTypes(defaults map[string]relation) error {
	permitted := defaultTypes
	if r, ok := defaults["permitted_enctypes"]; ok {
		permitted = parseTypes(r.value)
		if len(permitted) == 0 {
			return fmt.Errorf("%s: permitted_enctypes = %s has no encryption type of AES", r.at, r.value)
		}
	}
	d := &s.LibDefaults
	d.PermittedEnctypeIDs = permitted
	for key, ids := range map[string]*[]int32{
		"default_tkt_enctypes": &d.DefaultTktEnctypeIDs, "default_tgs_enctypes": &d.DefaultTGSEnctypeIDs,
	} {
		*ids = slices.Clone(permitted)
		r, ok := defaults[key]
		if !ok {
			continue
		}
		*ids = slices.DeleteFunc(parseTypes(r.value), func(id int32) bool { return !slices.Contains(permitted, id) })
		if len(*ids) == 0 {
			return fmt.Errorf("%s: %s = %s has no encryption type of AES that is permitted", r.at, key, r.value)
		}
	}
	return nil
}

// parseTypes reads a list of encryption types: names, aes for all of AES, DEFAULT,
// and those that are to be taken out, with a minus before. What is not of AES is
// left out.
func parseTypes(list string) (ids []int32) {
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		name, out := strings.CutPrefix(strings.ToLower(name), "-")
		name = strings.TrimPrefix(name, "+")
		var some []int32
		switch name {
		case "aes", "default":
			some = defaultTypes
		default:
			if id := etypeID.ETypesByName[name]; slices.Contains(defaultTypes, id) {
				some = []int32{id}
			}
		}
		for _, id := range some {
			ids = slices.DeleteFunc(ids, func(have int32) bool { return have == id && out })
			if !out && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// expand replaces what stands for the user in the name of a cache.
func expand(name string) string {
	uid := strconv.Itoa(os.Getuid())
	return strings.NewReplacer("%{uid}", uid, "%{euid}", uid, "%{USERID}", uid, "%{TEMP}", os.TempDir()).Replace(name)
}
