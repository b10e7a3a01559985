package httpconnect

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/serve"
)

// A Dialer goes out through an HTTP proxy by CONNECT. It is an
// [argyle.Dialer], and a Dialer and ContextDialer of golang.org/x/net/proxy;
// its DialContext fits http.Transport. Chains are made by nesting, with
// Forward.
//
// A status that refuses is an error that [errors.Is] finds as the
// [StatusError] and as what it stands for, such as [argyle.ErrNotAllowed].
type Dialer struct {
	argyle.StreamOnly

	// Addr is the proxy's "host:port", or "unix:/path".
	Addr string

	// Forward is the way to the proxy; nil is [argyle.Direct].
	Forward argyle.Dialer

	// User and Password are sent as Basic credentials if one of them is
	// set, without being asked for.
	User, Password string

	// TLS, if not nil, wraps the connection to the proxy. Its ServerName is
	// by default the host of Addr.
	TLS *tls.Config

	// Header is sent along with every CONNECT.
	Header http.Header
}

var _ argyle.Dialer = (*Dialer)(nil)

// String returns the proxy as a URL, without the password.
func (d *Dialer) String() string {
	if d.TLS != nil {
		return "https://" + d.Addr
	}
	return "http://" + d.Addr
}

// Dial is DialContext without a context.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects to address, "host:port". Names are left to the proxy.
// The context bounds everything until the proxy's answer has been read, and
// nothing after.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.connect(ctx, network, address)
	if err != nil {
		dest, _ := argyle.ParseAddr(address)
		return nil, &net.OpError{Op: "dial", Net: network, Addr: dest, Err: &proxyError{d.String(), err}}
	}
	return conn, nil
}

func (d *Dialer) connect(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, fmt.Errorf("network %s: %w", network, errors.ErrUnsupported)
	}
	request, err := d.request(address)
	if err != nil {
		return nil, err
	}
	conn, err := d.dialProxy(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := d.handshake(ctx, conn, request)
	if !stop() {
		err = ctx.Err() // the deadline has been set, or will be at any moment
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return tunnel, nil
}

// request returns the CONNECT as bytes.
func (d *Dialer) request(address string) ([]byte, error) {
	dest, err := argyle.ParseAddr(address)
	if err != nil {
		return nil, err
	}
	header := d.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = []string{""} // or else net/http names itself
	}
	if d.User != "" || d.Password != "" {
		credentials, err := basicCredentials(d.User, d.Password)
		if err != nil {
			return nil, err
		}
		header.Set("Proxy-Authorization", credentials)
	}
	req := http.Request{Method: http.MethodConnect, URL: new(url.URL), Host: dest.String(), Header: header}
	var b bytes.Buffer
	if err := req.WriteProxy(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// basicCredentials returns a user name and a password in the form of RFC 7617,
// section 2, which says what they may not contain.
func basicCredentials(user, password string) (string, error) {
	isControl := func(r rune) bool { return r < ' ' || r == 0x7f }
	if strings.Contains(user, ":") || strings.IndexFunc(user+password, isControl) >= 0 {
		return "", errors.New("user name with a colon, or control character in user name or password")
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)), nil
}

// dialProxy connects to the proxy.
func (d *Dialer) dialProxy(ctx context.Context) (net.Conn, error) {
	network, address := "tcp", d.Addr
	if path, ok := strings.CutPrefix(d.Addr, "unix:"); ok {
		network, address = "unix", path
	}
	switch {
	case d.Forward != nil:
		return d.Forward.DialContext(ctx, network, address)
	case network == "unix":
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return new(argyle.Direct).DialContext(ctx, network, address)
}

// handshake sends the request over conn and returns the tunnel.
func (d *Dialer) handshake(ctx context.Context, conn net.Conn, request []byte) (net.Conn, error) {
	if d.TLS != nil {
		secure := tls.Client(conn, d.tlsConfig())
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		conn = secure
	}
	if _, err := conn.Write(request); err != nil {
		return nil, fmt.Errorf("write CONNECT: %w", err)
	}
	limit := &io.LimitedReader{R: conn, N: maxAnswerBytes}
	r := bufio.NewReader(limit)
	err := readAnswer(r)
	switch {
	case err != nil && limit.N <= 0:
		return nil, fmt.Errorf("read answer: header of more than %d bytes", maxAnswerBytes)
	case err != nil:
		return nil, fmt.Errorf("read answer: %w", err)
	}
	ahead, _ := r.Peek(r.Buffered()) // no error: they are there
	return serve.Unread(conn, slices.Clone(ahead)), nil
}

// maxAnswerBytes bounds what a proxy says before the tunnel begins.
const maxAnswerBytes = 64 << 10

func (d *Dialer) tlsConfig() *tls.Config {
	if d.TLS.ServerName != "" || d.TLS.InsecureSkipVerify {
		return d.TLS
	}
	config := d.TLS.Clone()
	config.ServerName, _, _ = net.SplitHostPort(d.Addr)
	return config
}

// readAnswer reads the answer to a CONNECT, but nothing of the tunnel that
// follows it. An answer other than 2xx is a [StatusError].
func readAnswer(r *bufio.Reader) error {
	for range maxInterim {
		// What a 2xx says of a body means nothing (RFC 9110, section
		// 9.3.6), and nobody reads what others have.
		resp, err := http.ReadResponse(r, nil) //nolint:bodyclose // the connection is the tunnel, or closed
		switch {
		case err != nil:
			return err
		case resp.ProtoMajor != 1:
			return fmt.Errorf("answer in %s", resp.Proto)
		case resp.StatusCode/100 == 2:
			return nil
		case resp.StatusCode/100 != 1 || resp.StatusCode == http.StatusSwitchingProtocols:
			return StatusError(resp.StatusCode)
		}
	}
	return errors.New("interim answers without end")
}

// maxInterim is how many 1xx answers may come before the final one.
const maxInterim = 8
