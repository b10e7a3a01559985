package upstream

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// patience is how long a test waits for something that should happen at once, on a busy machine.
const patience = 20 * time.Second

// eventually waits until ready says true.
func eventually(t testing.TB, what string, ready func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ready() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// sshServer is an SSH server in this process, of which a test can make what no real one does. It serves direct-tcpip as
// it should unless open says otherwise.
type sshServer struct {
	addr  string
	known string // a known_hosts file
	ln    net.Listener

	accepted atomic.Int32
	deaf     atomic.Bool // what comes in is read and not answered
	open     func(host string, port uint32, channel ssh.NewChannel) bool
	requests func(conn ssh.Conn, req *ssh.Request) bool

	mu    sync.Mutex
	conns []net.Conn
	all   sync.WaitGroup
}

const sshPassword = "hush"

func startSSH(t testing.TB) *sshServer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sshServer{addr: ln.Addr().String(), ln: ln}
	s.known = writeFile(t, "known_hosts", knownhosts.Line([]string{s.addr}, signer.PublicKey()))
	config := &ssh.ServerConfig{PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
		if string(password) != sshPassword {
			return nil, errors.New("wrong")
		}
		return nil, nil
	}}
	config.AddHostKey(signer)
	s.all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.all.Go(func() { s.serve(conn, config) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.cut()
		s.all.Wait()
	})
	return s
}

// dialer is a way out through the server, which the test closes.
func (s *sshServer) dialer(t testing.TB) *SSH {
	t.Helper()
	d := &SSH{Addr: s.addr, User: "ann", Password: sshPassword, KnownHosts: []string{s.known}, Agent: ""}
	t.Cleanup(func() { d.Close() })
	return d
}

// cut breaks off all connections.
func (s *sshServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		conn.Close()
	}
	s.conns = nil
}

func (s *sshServer) serve(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	s.all.Go(func() {
		for req := range requests {
			if s.deaf.Load() || s.requests != nil && s.requests(server, req) {
				continue
			}
			_ = req.Reply(false, nil)
		}
	})
	for channel := range channels {
		s.all.Go(func() { s.direct(channel) })
	}
}

// direct serves a channel.
func (s *sshServer) direct(channel ssh.NewChannel) {
	var m struct {
		Host       string
		Port       uint32
		Originator string
		OriginPort uint32
	}
	if s.deaf.Load() {
		return
	}
	if err := ssh.Unmarshal(channel.ExtraData(), &m); err != nil || channel.ChannelType() != "direct-tcpip" {
		_ = channel.Reject(ssh.UnknownChannelType, "what?")
		return
	}
	if s.open != nil && s.open(m.Host, m.Port, channel) {
		return
	}
	dest, err := net.Dial("tcp", net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port))))
	if err != nil {
		_ = channel.Reject(ssh.ConnectionFailed, "Connection refused")
		return
	}
	ch, requests, err := channel.Accept()
	if err != nil {
		dest.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(ch, dest); _ = ch.CloseWrite() })
	both.Go(func() { _, _ = io.Copy(dest, ch); _ = dest.(*net.TCPConn).CloseWrite() })
	both.Wait()
	ch.Close()
	dest.Close()
}

// writeFile makes a file in a folder of its own and returns its path.
func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// sshKey makes a key pair as ssh-keygen does: a file, and the line for authorized_keys and known_hosts.
func sshKey(t testing.TB, passphrase string) (file, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "key", string(pem.EncodeToMemory(block))), string(ssh.MarshalAuthorizedKey(sshPub))
}
