package krb5

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/jcmturner/gokrb5/v8/config"
)

// settings are what an initiator takes from krb5.conf.
type settings struct {
	*config.Config                     // what messages are made with
	cacheName      string              // default_ccache_name
	realms         map[string][]string // the addresses of KDCs by realm
	domains        map[string]string   // realms by host, or by domain
}

// loadSettings reads krb5.conf, which may be several files with colons between.
// Without one, KDCs are found by DNS. Values that are not understood are left
// out and told.
func loadSettings(paths string, log *slog.Logger) (*settings, error) {
	var all []relation
	for path := range strings.SplitSeq(paths, ":") {
		more, err := readProfile(path, 0)
		if errors.Is(err, os.ErrNotExist) && !errors.Is(err, errInclude) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return newSettings(all, log)
}

// newSettings makes settings of relations. The first of several values counts,
// as with MIT's library, and every KDC.
func newSettings(all []relation, log *slog.Logger) (*settings, error) {
	s := &settings{Config: config.New(), realms: make(map[string][]string), domains: make(map[string]string)}
	defaults := make(map[string]relation)
	for _, r := range all {
		switch path := r.path; {
		case len(path) == 2 && path[0] == "libdefaults":
			if _, again := defaults[path[1]]; !again {
				defaults[path[1]] = r
			}
		case len(path) == 2 && path[0] == "domain_realm":
			if host := strings.ToLower(path[1]); s.domains[host] == "" {
				s.domains[host] = r.value
			}
		case len(path) == 3 && path[0] == "realms" && path[2] == "kdc":
			address, err := kdcAddress(r.value)
			if err != nil {
				log.Warn("a KDC in krb5.conf is left out", "at", r.at, "err", err)
				continue
			}
			s.realms[path[1]] = append(s.realms[path[1]], address)
		}
	}
	s.cacheName = defaults["default_ccache_name"].value
	s.setDefaults(defaults, log)
	return s, s.chooseTypes(defaults)
}

// setDefaults takes from [libdefaults] what requests to KDCs are made by.
func (s *settings) setDefaults(defaults map[string]relation, log *slog.Logger) {
	lines := []string{"[libdefaults]", "dns_lookup_kdc = true"} // the default of MIT's library
	for _, key := range []string{"default_realm", "dns_lookup_kdc", "ticket_lifetime", "renew_lifetime", "forwardable", "proxiable", "canonicalize", "noaddresses", "extra_addresses"} {
		r, isSet := defaults[key]
		if !isSet {
			continue
		}
		line := key + " = " + r.value
		if _, err := config.NewFromString("[libdefaults]\n" + line); err != nil {
			log.Warn("a line of krb5.conf is left out", "at", r.at, "line", line, "err", err)
			continue
		}
		lines = append(lines, line)
	}
	if c, err := config.NewFromString(strings.Join(lines, "\n")); err == nil {
		s.Config = c
	}
}

// chooseTypes sets the encryption types that are asked for.
func (s *settings) chooseTypes(defaults map[string]relation) error {
	permitted, err := typesOf(defaults, "permitted_enctypes", aesTypes())
	if err != nil {
		return err
	}
	d := &s.LibDefaults
	d.PermittedEnctypeIDs = permitted
	if d.DefaultTktEnctypeIDs, err = typesOf(defaults, "default_tkt_enctypes", permitted); err != nil {
		return err
	}
	d.DefaultTGSEnctypeIDs, err = typesOf(defaults, "default_tgs_enctypes", permitted)
	return err
}

// aesTypes are the types that we have, in the order of MIT's library.
func aesTypes() []int32 { return []int32{18, 17, 20, 19} }

// typesOf returns the types of those permitted that a list has.
func typesOf(defaults map[string]relation, key string, permitted []int32) ([]int32, error) {
	r, isSet := defaults[key]
	if !isSet {
		return slices.Clone(permitted), nil
	}
	var ids []int32
	for _, word := range strings.FieldsFunc(strings.ToLower(r.value), func(c rune) bool { return c == ',' || c == ' ' || c == '\t' }) {
		name, without := strings.CutPrefix(word, "-")
		some := typesNamed(strings.TrimPrefix(name, "+"))
		ids = slices.DeleteFunc(ids, func(id int32) bool { return without && slices.Contains(some, id) })
		for _, id := range some {
			if !without && !slices.Contains(ids, id) && slices.Contains(permitted, id) {
				ids = append(ids, id)
			}
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s: %s is %q, want a permitted encryption type of AES, as aes256-cts-hmac-sha1-96", r.at, key, r.value)
	}
	return ids, nil
}

// typesNamed returns the types of a name, or of a family; none if they are not
// of AES.
func typesNamed(name string) []int32 {
	switch name {
	case "default", "aes":
		return aesTypes()
	case "aes256-cts", "aes256-sha1":
		return []int32{18}
	case "aes128-cts", "aes128-sha1":
		return []int32{17}
	case "aes256-sha2":
		return []int32{20}
	case "aes128-sha2":
		return []int32{19}
	}
	for _, id := range aesTypes() {
		if e, err := enctypeOf(id); err == nil && e.name == name {
			return []int32{id}
		}
	}
	return nil
}

// kdcAddress returns where to dial for a KDC of krb5.conf.
func kdcAddress(value string) (string, error) {
	host := strings.TrimPrefix(strings.TrimSuffix(value, "*"), "tcp/")
	if host == "" || strings.ContainsAny(host, "/ \t") {
		return "", fmt.Errorf("kdc is %q, want a host, or host:port, to be reached by TCP", value)
	}
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host, nil
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if _, err := netip.ParseAddr(bare); err != nil && strings.ContainsAny(host, ":[]") {
		return "", fmt.Errorf("kdc is %q, want a host, or host:port", value)
	}
	return net.JoinHostPort(bare, "88"), nil
}

// realmOf returns the realm that [domain_realm] has for a host, by its name or
// by the closest domain that it is in; "" if none.
func (s *settings) realmOf(host string) string {
	for name := strings.ToLower(strings.TrimSuffix(host, ".")); name != ""; {
		if realm := s.domains[name]; realm != "" {
			return realm
		}
		if domain, isDomain := strings.CutPrefix(name, "."); isDomain {
			name = domain
		} else if at := strings.IndexByte(name, '.'); at >= 0 {
			name = name[at:]
		} else {
			return ""
		}
	}
	return ""
}

// kdcs returns the addresses of a realm's KDCs: those of krb5.conf, or those
// that DNS has (RFC 4120, section 7.2.3.2).
func (s *settings) kdcs(ctx context.Context, realm string) ([]string, error) {
	if kdcs := s.realms[realm]; len(kdcs) > 0 {
		return kdcs, nil
	}
	if !s.LibDefaults.DNSLookupKDC {
		return nil, fmt.Errorf("no KDC of %s is known: name it in krb5.conf", realm)
	}
	var kdcs []string
	var errs []error
	for _, proto := range []string{"tcp", "udp"} { // most that are named for UDP speak TCP too
		// The dot keeps the resolver from trying other domains.
		_, records, err := resolver().LookupSRV(ctx, "kerberos", proto, strings.TrimSuffix(realm, ".")+".")
		errs = append(errs, err)
		for _, r := range records {
			if host := strings.TrimSuffix(r.Target, "."); host != "" {
				kdcs = append(kdcs, net.JoinHostPort(host, strconv.Itoa(int(r.Port))))
			}
		}
		if len(kdcs) > 0 {
			return kdcs, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("no KDC of %s is known: name it in krb5.conf, or let DNS have it: %w",
		realm, cmp.Or(errors.Join(errs...), errors.New("DNS says that there is none")))
}

// resolver returns one that ends with its context, which that of the system
// minds only where it has a deadline.
func resolver() *net.Resolver {
	dial := net.DefaultResolver.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { conn.Close() }) // the resolver ends it with each question
		}
		return conn, err
	}}
}

// expand replaces what stands for the user in the name of a cache.
func expand(name string) string {
	uid := strconv.Itoa(os.Getuid())
	return strings.NewReplacer("%{uid}", uid, "%{euid}", uid, "%{USERID}", uid, "%{TEMP}", os.TempDir()).Replace(name)
}
