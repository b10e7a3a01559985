//go:build linux

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/krbtest"
	"github.com/argyle-socks/argyle/internal/users"
)

// yamlBlocks are the configurations in a page.
var yamlBlocks = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")

// Every configuration in the manual passes argyle check.
func TestDocsConfigs(t *testing.T) {
	certFile, keyFile := certificate(t)
	keytab, err := os.ReadFile(krbtest.Keytab(t, "rcmd/gw.example.com@EXAMPLE.COM"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"FAR_PASSWORD", "PARENT_PASSWORD", "CHAIN_PASSWORD"} {
		t.Setenv(name, "p@ss/word")
	}
	for page, least := range map[string]int{"docs/config": 12, "docs/coming-from": 3, "docs/forward": 1, "docs/gateway": 3, "docs/gssapi": 1, "README": 1} {
		blocks := yamlBlocks.FindAllStringSubmatch(docsFile(t, "../../"+page+".md"), -1)
		if len(blocks) < least {
			t.Errorf("%s has %d configurations", page, len(blocks))
		}
		for _, block := range blocks {
			dir := t.TempDir()
			file := func(name string, text []byte) {
				if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			file("argyle.yaml", []byte(block[1]))
			file("secret", []byte("hush\n"))
			file("argyle.keytab", keytab)
			file("trackers.txt", []byte("# hosts\n0.0.0.0 ads.example\n.tracker.example\n"))
			for name, from := range map[string]string{"cert.pem": certFile, "key.pem": keyFile, "clients.pem": certFile} {
				text, err := os.ReadFile(from)
				if err != nil {
					t.Fatal(err)
				}
				file(name, text)
			}
			for _, user := range []string{"ann", "bob", "eve"} {
				if err := users.Set(filepath.Join(dir, "users"), user, password); err != nil {
					t.Fatal(err)
				}
			}
			var said strings.Builder
			if err := check(&said, &said, filepath.Join(dir, "argyle.yaml")); err != nil {
				t.Errorf("%s:\n%s\n%s", page, block[1], said.String())
			}
		}
	}
}

// The reference tells of every key.
func TestDocsKeys(t *testing.T) {
	t.Parallel()
	page := docsPage(t, "config")
	for _, key := range config.Keys() {
		parts := strings.FieldsFunc(key.Path, func(r rune) bool { return strings.ContainsRune(".[]*<>{}", r) })
		last := parts[len(parts)-1]
		if !strings.Contains(page, "`"+last+"`") {
			t.Errorf("the page says nothing of %s", key.Path)
		}
	}
}
