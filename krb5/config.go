package krb5

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jcmturner/gokrb5/v8/config"
)

// settings are what an initiator takes from krb5.conf.
type settings struct {
	*config.Config
	cacheName string // default_ccache_name
}

// loadSettings reads krb5.conf, which may be several files with colons between.
// Without one, KDCs are found by DNS. Lines that are not understood are left
// out and told.
func loadSettings(paths string, log *slog.Logger) (*settings, error) {
	var lines []string
	for path := range strings.SplitSeq(paths, ":") {
		more, err := configLines(path, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	return parseSettings(lines, log)
}

// maxIncludes is how deep files may include others.
const maxIncludes = 10

// configLines returns the lines of a file and of those that it includes.
func configLines(path string, depth int) (lines []string, err error) {
	if depth > maxIncludes {
		return nil, fmt.Errorf("%s: more than %d files include one another", path, maxIncludes)
	}
	b, _, err := readFile(path)
	if err != nil {
		return nil, err
	}
	scanner := bufio.NewScanner(strings.NewReader(string(b)))
	for scanner.Scan() {
		word, rest, _ := strings.Cut(strings.TrimSpace(scanner.Text()), " ")
		var more []string
		switch rest = strings.TrimSpace(rest); word {
		case "include":
			more, err = configLines(rest, depth+1)
		case "includedir":
			more, err = configDir(rest, depth+1)
		default:
			more = []string{scanner.Text()}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		lines = append(lines, more...)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return lines, nil
}

// included are the files of a directory that count, as MIT's library has it.
var included = regexp.MustCompile(`^([A-Za-z0-9_-]+|[^.].*\.conf)$`)

func configDir(dir string, depth int) (lines []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !included.MatchString(entry.Name()) {
			continue
		}
		more, err := configLines(filepath.Join(dir, entry.Name()), depth)
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	return lines, nil
}

// parseSettings reads the lines of a krb5.conf.
func parseSettings(lines []string, log *slog.Logger) (s *settings, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("krb5.conf is malformed: %v", r)
		}
	}()
	s = new(settings)
	var good []string
	section, typesSet, dnsSet := "", false, false
	for _, line := range lines {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "[") {
			section = text
		} else if section == "[libdefaults]" && text != "" {
			key, value, _ := strings.Cut(text, "=")
			key, value = strings.TrimSpace(key), strings.TrimSpace(value)
			switch key {
			case "default_ccache_name":
				s.cacheName = value
			case "default_tgs_enctypes", "default_tkt_enctypes", "permitted_enctypes":
				typesSet = true
			case "dns_lookup_kdc":
				dnsSet = true
			}
			if _, err := parseConfig([]string{section, line}); err != nil {
				log.Warn("a line of krb5.conf is left out", "line", text, "err", err)
				continue
			}
		}
		good = append(good, line)
	}
	if s.Config, err = parseConfig(good); err != nil {
		return nil, fmt.Errorf("krb5.conf: %w", err)
	}
	if !dnsSet {
		s.LibDefaults.DNSLookupKDC = true // the default of MIT's library
	}
	return s, s.chooseTypes(typesSet)
}

// parseConfig does not mind what gokrb5 says it does not support.
func parseConfig(lines []string) (*config.Config, error) {
	c, err := config.NewFromString(strings.Join(lines, "\n"))
	var unsupported config.UnsupportedDirective
	if errors.As(err, &unsupported) {
		err = nil
	}
	return c, err
}

// chooseTypes leaves the encryption types of AES, in the order of MIT's
// library if the file says nothing about them.
func (s *settings) chooseTypes(isSet bool) error {
	d := &s.LibDefaults
	if !isSet {
		d.DefaultTktEnctypeIDs = []int32{18, 17, 20, 19}
		d.DefaultTGSEnctypeIDs = slices.Clone(d.DefaultTktEnctypeIDs)
		return nil
	}
	for _, ids := range []*[]int32{&d.DefaultTktEnctypeIDs, &d.DefaultTGSEnctypeIDs} {
		*ids = slices.DeleteFunc(*ids, func(id int32) bool {
			_, err := enctypeOf(id)
			return err != nil || len(d.PermittedEnctypeIDs) > 0 && !slices.Contains(d.PermittedEnctypeIDs, id)
		})
		if len(*ids) == 0 {
			return errors.New("krb5.conf permits no encryption type of AES")
		}
	}
	return nil
}

// expand replaces what stands for the user in the name of a cache.
func expand(name string) string {
	uid := strconv.Itoa(os.Getuid())
	return strings.NewReplacer("%{uid}", uid, "%{euid}", uid, "%{USERID}", uid, "%{TEMP}", os.TempDir()).Replace(name)
}
