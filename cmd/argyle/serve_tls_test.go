package main

import (
	"os"
	"path/filepath"
	"testing"
)

// A certificate that changes between its first reading and the first look at it is not overlooked, and what SIGHUP has
// read is not read again.
func TestCertificateSeen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := tlsFiles{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.Reload(); err == nil {
		t.Fatal("there is no certificate yet")
	}
	if files.changed() {
		t.Error("nothing is news")
	}
	write(files.cert, "a certificate")
	if !files.changed() {
		t.Error("a new certificate is no news")
	}
	_ = files.Reload()
	if files.changed() {
		t.Error("what has been read is news, though it was bad")
	}
	write(files.key, "a key")
	if !files.changed() {
		t.Error("a new key is no news")
	}
}
