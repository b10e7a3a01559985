package argyle_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// packageDirs are where the tests that docs/protocol.md names live.
var packageDirs = map[string]string{
	"argyle": ".", "socks": "socks", "wire": "socks/wire", "httpconnect": "httpconnect", "proxy": "proxy",
	"relay": "internal/relay", "serve": "internal/serve", "udp": "internal/udp", "users": "internal/users",
	"policy": "internal/policy", "upstream": "internal/upstream", "krb5": "krb5",
}

// Every trap has its row, and every test that a row names exists.
func TestProtocolTable(t *testing.T) {
	page, err := os.ReadFile("docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (T\d+) \|.*\| ([^|]+) \|$`).FindAllStringSubmatch(string(page), -1)
	if len(rows) != 42 {
		t.Errorf("%d rows, want T1 to T42", len(rows))
	}
	for _, row := range rows {
		for name := range strings.SplitSeq(row[2], ", ") {
			pkg, test, _ := strings.Cut(name, " ")
			if !hasTest(t, packageDirs[pkg], test) {
				t.Errorf("%s: there is no %s in package %s", row[1], test, pkg)
			}
		}
	}
}

func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		b, err := os.ReadFile(dir + "/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}
