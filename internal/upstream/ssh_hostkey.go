package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// knownHosts is what known_hosts files say of one server.
type knownHosts struct {
	addr  string   // host:port
	files []string // that were to be looked at
	check ssh.HostKeyCallback
	keys  []knownhosts.KnownKey // of the server, authorities included
}

// knownHosts looks the server up.
func (s *SSH) knownHosts() (*knownHosts, error) {
	if len(s.KnownHosts) > 0 {
		return readKnownHosts(s.Addr, s.KnownHosts)
	}
	files := append(inHome(".ssh/known_hosts"), "/etc/ssh/ssh_known_hosts")
	there := slices.DeleteFunc(slices.Clone(files), func(file string) bool {
		_, err := os.Stat(file)
		return errors.Is(err, fs.ErrNotExist)
	})
	k, err := readKnownHosts(s.Addr, there)
	if err != nil {
		return nil, err
	}
	k.files = files // those that are missing know nobody
	return k, nil
}

// readKnownHosts looks a server up in files.
func readKnownHosts(addr string, files []string) (*knownHosts, error) {
	files = slices.Clone(files)
	for i, file := range files {
		files[i] = expandHome(file)
	}
	check, err := knownhosts.New(files...)
	if err != nil {
		return nil, err
	}
	k := &knownHosts{addr: addr, files: files, check: check}
	// Nobody has this key, and the error says who has which.
	var unknown *knownhosts.KeyError
	if errors.As(k.ask(noKey{}), &unknown) {
		k.keys = unknown.Want
	}
	return k, nil
}

// ask asks the files about a key. They know the server by the name that was
// asked for: where the connection really goes is not known behind a proxy.
func (k *knownHosts) ask(key ssh.PublicKey) error {
	return k.check(k.addr, &net.TCPAddr{IP: net.IPv4zero}, key)
}

// noKey is a public key that no server has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// algorithms returns what the server may prove itself with: else it would show
// a key of another type than the one known, and look like somebody else. nil
// stands for all, for a server that is unknown.
func (k *knownHosts) algorithms() []string {
	var plain []string
	authority := false
	for _, key := range k.keys {
		switch kind := key.Key.Type(); {
		case isAuthority(key):
			authority = true
		case kind == ssh.KeyAlgoRSA:
			plain = append(plain, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			plain = append(plain, kind)
		}
	}
	if !authority {
		return unique(plain)
	}
	certified := slices.DeleteFunc(ssh.SupportedAlgorithms().HostKeys, func(name string) bool {
		return !strings.Contains(name, "-cert-")
	})
	return unique(append(certified, plain...))
}

// unique drops what has been there before.
func unique(names []string) (rest []string) {
	for _, name := range names {
		if !slices.Contains(rest, name) {
			rest = append(rest, name)
		}
	}
	return rest
}

// isAuthority reports whether a line is about who signs keys, rather than about
// a server's own.
func isAuthority(key knownhosts.KnownKey) bool {
	file, err := os.Open(key.Filename)
	if err != nil {
		return false
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		if n == key.Line {
			return strings.HasPrefix(strings.TrimLeft(lines.Text(), " \t"), "@cert-authority")
		}
	}
	return false
}

// verify refuses a key that is not the server's, and says what to do.
func (k *knownHosts) verify(key ssh.PublicKey) error {
	err := k.ask(key)
	var other *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &revoked):
		return fmt.Errorf("host key of %s, %s, is revoked in %s:%d", k.addr, describeKey(key), revoked.Revoked.Filename, revoked.Revoked.Line)
	case !errors.As(err, &other):
		return err
	case len(other.Want) == 0:
		return fmt.Errorf("host key of %s, %s, is not in %s; if that is its fingerprint, add it with: %s",
			k.addr, describeKey(key), strings.Join(k.files, " or "), k.keyscan(key, k.files[0]))
	}
	want := other.Want[0]
	return fmt.Errorf("host key of %s has changed, or somebody stands in between: it shows %s, but %s:%d has %s; if it has changed, run: ssh-keygen -R '%s' -f %s, and then: %s",
		k.addr, describeKey(key), want.Filename, want.Line, describeKey(want.Key), knownhosts.Normalize(k.addr), want.Filename, k.keyscan(key, want.Filename))
}

func describeKey(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }

// keyscan returns the command that adds a key of this type to file.
func (k *knownHosts) keyscan(key ssh.PublicKey, file string) string {
	host, port, _ := net.SplitHostPort(k.addr)
	command := "ssh-keyscan "
	if port != "22" {
		command += "-p " + port + " "
	}
	kind := key.Type()
	switch {
	case kind == ssh.KeyAlgoRSA:
		command += "-t rsa "
	case kind == ssh.KeyAlgoED25519:
		command += "-t ed25519 "
	case strings.HasPrefix(kind, "ecdsa-"):
		command += "-t ecdsa "
	}
	return command + host + " >>" + file
}

// explain adds to an error of the handshake what known_hosts has to do with it.
func (k *knownHosts) explain(err error) error {
	var none *ssh.AlgorithmNegotiationError
	if !errors.As(err, &none) || len(k.keys) == 0 {
		return err
	}
	var kinds []string
	for _, key := range k.keys {
		kinds = append(kinds, key.Key.Type())
	}
	return fmt.Errorf("%w (of %s the files know keys of type %s only)", err, k.addr, strings.Join(unique(kinds), ", "))
}
