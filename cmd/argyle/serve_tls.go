package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// tlsRecord is the first byte of a TLS handshake.
const tlsRecord = 0x16

// tlsFiles is a TLS configuration made of files that may change.
type tlsFiles struct {
	cert, key, clientCA string
	optional            bool // clients without a certificate may be known otherwise, or not at all
	config              atomic.Pointer[tls.Config]

	mu   sync.Mutex // one reload at a time
	seen [3]stamp   // the files when they were last read, good or bad
}

// stamp is what tells that a file has changed.
type stamp struct {
	size int64
	time time.Time
}

// stamps returns the stamps of the files; that of an absent one is zero.
func (t *tlsFiles) stamps() (all [3]stamp) {
	for i, name := range []string{t.cert, t.key, t.clientCA} {
		if info, err := os.Stat(name); err == nil {
			all[i] = stamp{info.Size(), info.ModTime()}
		}
	}
	return all
}

// changed reports whether a file is not what the last reload saw.
func (t *tlsFiles) changed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stamps() != t.seen
}

// Reload reads the files again. On an error the configuration stays as it was.
func (t *tlsFiles) Reload() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = t.stamps() // before they are read, so that a change meanwhile is one
	pair, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if t.clientCA != "" {
		pem, err := os.ReadFile(t.clientCA)
		if err != nil {
			return fmt.Errorf("client authorities: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("client authorities: no certificate in %s", t.clientCA)
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
		if t.optional {
			config.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	t.config.Store(config)
	return nil
}

func isTLS(conn net.Conn) bool { return asTLS(conn) != nil }

// asTLS returns the TLS connection that conn is, or has been put back into.
func asTLS(conn net.Conn) *tls.Conn {
	for conn != nil {
		if t, ok := conn.(*tls.Conn); ok {
			return t
		}
		u, ok := conn.(interface{ Unwrap() (net.Conn, []byte) })
		if !ok {
			return nil
		}
		conn, _ = u.Unwrap()
	}
	return nil
}

// certUser returns the name in a client's certificate, which TLS has verified;
// "" for a connection without one.
func certUser(conn net.Conn) string {
	t := asTLS(conn)
	if t == nil {
		return ""
	}
	chains := t.ConnectionState().VerifiedChains
	if len(chains) == 0 {
		return ""
	}
	return certName(chains[0][0])
}

// certName is the name by which rules and logs know a certificate.
func certName(cert *x509.Certificate) string {
	switch {
	case cert.Subject.CommonName != "":
		return cert.Subject.CommonName
	case len(cert.EmailAddresses) > 0:
		return cert.EmailAddresses[0]
	case len(cert.DNSNames) > 0:
		return cert.DNSNames[0]
	}
	return "serial:" + cert.SerialNumber.Text(16)
}
