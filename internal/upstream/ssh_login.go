package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	osuser "os/user"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// login makes an SSH connection of conn: it checks the server's key and logs in.
func (s *SSH) login(ctx context.Context, conn *lifeline) (*sshClient, error) {
	known, err := s.knownHosts()
	if err != nil {
		return nil, err
	}
	name, err := s.user()
	if err != nil {
		return nil, err
	}
	keys, err := s.openKeyring(ctx)
	if err != nil {
		return nil, err
	}
	defer keys.close()
	trusted := false
	config := &ssh.ClientConfig{
		User: name,
		Auth: s.methods(keys),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			err := known.verify(key)
			trusted = err == nil
			return err
		},
		HostKeyAlgorithms: known.algorithms(),
	}
	transport, channels, requests, err := ssh.NewClientConn(conn, s.Addr, config)
	switch {
	case err == nil:
		return s.newSSHClient(conn, transport, channels, requests), nil
	case trusted:
		return nil, fmt.Errorf("log in as %q: %w%s", name, err, keys.remarks())
	}
	return nil, known.explain(err)
}

// user returns who logs in.
func (s *SSH) user() (string, error) {
	if s.User != "" {
		return s.User, nil
	}
	me, err := osuser.Current()
	if err != nil {
		return "", fmt.Errorf("who logs in: %w", err)
	}
	// Windows puts the domain before it.
	return me.Username[strings.LastIndexByte(me.Username, '\\')+1:], nil
}

// methods returns the ways to log in, in the order in which they are tried.
func (s *SSH) methods(keys *keyring) []ssh.AuthMethod {
	byKey := ssh.PublicKeysCallback(keys.signers)
	if s.Password == "" {
		return []ssh.AuthMethod{byKey}
	}
	return []ssh.AuthMethod{ssh.Password(s.Password), ssh.KeyboardInteractive(answerWith(s.Password)), byKey}
}

// answerWith answers the questions of a server that asks for a password so.
func answerWith(password string) ssh.KeyboardInteractiveChallenge {
	answered := false
	return func(_, _ string, questions []string, echos []bool) ([]string, error) {
		answers := make([]string, len(questions))
		for i, question := range questions {
			switch {
			case echos[i]:
				return nil, fmt.Errorf("the server asks %q, which is no password", question)
			case answered:
				return nil, errors.New("the server asks for more than a password, or does not take this one")
			}
			answered = true
			answers[i] = password
		}
		return answers, nil
	}
}

// keyring has the private keys of one login.
type keyring struct {
	agentConn net.Conn // nil: no agent
	stop      func() bool
	explicit  bool
	files     []string
	notes     []string // what kept keys from being tried
}

// openKeyring reaches the agent. Keys are looked at if the server takes any.
func (s *SSH) openKeyring(ctx context.Context) (*keyring, error) {
	k := &keyring{explicit: len(s.Identity) > 0, files: s.Identity}
	if !k.explicit {
		k.files = inHome(".ssh/id_ed25519", ".ssh/id_ecdsa", ".ssh/id_rsa")
	}
	socket := s.Agent
	if socket == "" {
		socket = os.Getenv("SSH_AUTH_SOCK")
	}
	if socket == "" {
		return k, nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	switch {
	case err == nil:
		k.agentConn = conn
		k.stop = context.AfterFunc(ctx, func() { conn.Close() }) // it may be waiting for somebody to say yes
	case s.Agent != "":
		return nil, fmt.Errorf("agent: %w", err)
	default:
		k.note("agent: %v", err)
	}
	return k, nil
}

func (k *keyring) close() {
	if k.agentConn != nil {
		k.stop()
		k.agentConn.Close()
	}
}

func (k *keyring) note(format string, args ...any) {
	k.notes = append(k.notes, fmt.Sprintf(format, args...))
}

// remarks are the notes as the end of an error's text.
func (k *keyring) remarks() string {
	if len(k.notes) == 0 {
		return ""
	}
	return " (" + strings.Join(k.notes, "; ") + ")"
}

// signers returns the keys in the order in which they are tried.
func (k *keyring) signers() ([]ssh.Signer, error) {
	agents := k.agents()
	var keys []ssh.Signer
	if !k.explicit {
		keys = agents
	}
	for _, file := range k.files {
		key, err := loadKey(file)
		if isEncrypted(err) {
			key, err = k.decrypted(file, err, agents)
		}
		switch {
		case err == nil:
			keys = append(keys, key)
		case !k.explicit && errors.Is(err, fs.ErrNotExist):
		default:
			k.note("%v", err)
		}
	}
	if len(keys) == 0 && !k.explicit {
		k.note("no key in an agent, nor in %s", strings.Join(k.files, ", "))
	}
	return keys, nil
}

// agents returns the agent's keys.
func (k *keyring) agents() []ssh.Signer {
	if k.agentConn == nil {
		return nil
	}
	keys, err := agent.NewClient(k.agentConn).Signers()
	if err != nil {
		k.note("agent: %v", err)
	}
	return keys
}

// decrypted looks for a key with a passphrase in the agent.
func (k *keyring) decrypted(file string, cause error, agents []ssh.Signer) (ssh.Signer, error) {
	public := publicOf(file, cause)
	for _, key := range agents {
		if public != nil && bytes.Equal(key.PublicKey().Marshal(), public.Marshal()) {
			return key, nil
		}
	}
	return nil, fmt.Errorf("key %s has a passphrase and is not in the agent; put it there with: ssh-add %s", file, file)
}

// publicOf returns the public key of a private key with a passphrase, nil if it
// is not known. Old formats have it only in a file beside.
func publicOf(file string, cause error) ssh.PublicKey {
	var missing *ssh.PassphraseMissingError
	if errors.As(cause, &missing) && missing.PublicKey != nil {
		return missing.PublicKey
	}
	line, err := readFile(expandHome(file) + ".pub")
	if err != nil {
		return nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil
	}
	return key
}

// loadKey reads a private key.
func loadKey(file string) (ssh.Signer, error) {
	pem, err := readFile(expandHome(file))
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", file, err)
	}
	return key, nil
}

// isEncrypted reports whether err says that a key has a passphrase.
func isEncrypted(err error) bool {
	var missing *ssh.PassphraseMissingError
	return errors.As(err, &missing)
}

// expandHome puts the home directory in the place of ~, as no shell does within
// a URL.
func expandHome(file string) string {
	if rest, ok := strings.CutPrefix(file, "~/"); ok {
		if paths := inHome(rest); len(paths) > 0 {
			return paths[0]
		}
	}
	return file
}

// inHome returns paths below the home directory, none if there is no such thing.
func inHome(paths ...string) []string {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	files := make([]string, len(paths))
	for i, path := range paths {
		files[i] = filepath.Join(home, filepath.FromSlash(path))
	}
	return files
}
