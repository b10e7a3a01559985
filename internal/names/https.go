package names

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const messageType = "application/dns-message" // RFC 8484, section 6

// newHTTPClient keeps connections of its own. It follows nobody elsewhere and
// uses no proxy but what dial is.
func (m *remote) newHTTPClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				// It may outlive the question that began it.
				ctx, cancel := context.WithTimeout(ctx, m.timeout)
				defer cancel()
				return m.dial(ctx, "tcp", m.server.Address)
			},
			TLSClientConfig:        m.tls,
			TLSHandshakeTimeout:    m.timeout,
			ForceAttemptHTTP2:      true,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: m.timeout, PingTimeout: m.timeout},
			IdleConnTimeout:        3 * idleTime,
			MaxIdleConnsPerHost:    4,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// post asks over HTTPS.
func (m *remote) post(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	client, began := m.http.Load(), time.Since(m.born)
	var kept atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { kept.Store(info.Reused) },
	})
	response, err := m.postWith(traced, client, query)
	if err != nil {
		quiet := errors.Is(ctx.Err(), context.DeadlineExceeded) && m.heard.Load() < int64(began)
		if kept.Load() && (quiet || ctx.Err() == nil) {
			// A new client has no connection that could be the bad one.
			if m.http.CompareAndSwap(client, m.newHTTPClient()) {
				client.CloseIdleConnections()
			}
			err = fmt.Errorf("%w: %w", errStale, err)
		}
		return nil, err
	}
	defer response.Body.Close()
	m.heard.Store(int64(time.Since(m.born)))
	return readHTTP(response, query)
}

func (m *remote) postWith(ctx context.Context, client *http.Client, query *dns.Msg) (*http.Response, error) {
	query.Id = 0 // RFC 8484, section 4.1
	packed, err := query.Pack()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.server.url(), bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	request.Header = http.Header{
		"Content-Type":    {messageType},
		"Accept":          {messageType},
		"User-Agent":      {""},
		"Idempotency-Key": nil, // sends nothing, but lets net/http ask again where a kept connection was lost
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, errors.Unwrap(err) // without the URL, whose path may be a customer's secret
	}
	return response, nil
}

func readHTTP(response *http.Response, query *dns.Msg) (*dns.Msg, error) {
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers HTTP status %s", response.Status)
	}
	if got := response.Header.Get("Content-Type"); got != messageType {
		return nil, fmt.Errorf("the server answers with content of type %q", got)
	}
	packed, err := io.ReadAll(io.LimitReader(response.Body, dns.MaxMsgSize))
	if err != nil {
		return nil, err
	}
	msg := new(dns.Msg)
	if err := msg.Unpack(packed); err != nil {
		return nil, err
	}
	if !answers(msg, query) {
		return nil, errors.New("the server answers another question")
	}
	return msg, nil
}
