package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// The names of a gateway that runs are at a unix socket, by HTTP and JSON:
//
//	GET    /names           a list of mapping
//	GET    /names/KEY       a mapping, by name or address
//	PUT    /names/NAME      {"addr": "198.18.0.20"}: pins the name; a mapping
//	DELETE /names/NAME      unpins it
//
// An error is a text.

// controlBody bounds a request.
const controlBody = 4 << 10

// pinRequest is the body of PUT.
type pinRequest struct {
	Addr netip.Addr `json:"addr"` // none: the one that the name has, or would have
}

// controlHandler answers for mappings.
func controlHandler(m mappings) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /names", func(w http.ResponseWriter, r *http.Request) {
		all, err := m.list(r.Context())
		reply(w, all, err)
	})
	mux.HandleFunc("GET /names/{key}", func(w http.ResponseWriter, r *http.Request) {
		one, err := m.get(r.Context(), r.PathValue("key"))
		reply(w, one, err)
	})
	mux.HandleFunc("PUT /names/{key}", func(w http.ResponseWriter, r *http.Request) {
		var body pinRequest
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, controlBody)).Decode(&body); err != nil {
			http.Error(w, "read request: "+err.Error(), http.StatusBadRequest)
			return
		}
		one, err := m.pin(r.Context(), r.PathValue("key"), body.Addr)
		reply(w, one, err)
	})
	mux.HandleFunc("DELETE /names/{key}", func(w http.ResponseWriter, r *http.Request) {
		reply(w, struct{}{}, m.unpin(r.Context(), r.PathValue("key")))
	})
	return mux
}

func reply(w http.ResponseWriter, what any, err error) {
	switch {
	case errors.Is(err, errNoMapping):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(what) // the client is gone, if anything
	}
}

// controlClient asks a gateway that runs.
type controlClient struct {
	path string
	http http.Client
}

func newControlClient(path string) *controlClient {
	c := &controlClient{path: path}
	c.http.Timeout = 10 * time.Second
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	return c
}

// answers reports whether there is a gateway.
func (c *controlClient) answers() bool {
	conn, err := net.Dial("unix", c.path)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Close lets go of the connections.
func (c *controlClient) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

func (c *controlClient) list(ctx context.Context) (all []mapping, err error) {
	return all, c.do(ctx, http.MethodGet, "", nil, &all)
}

func (c *controlClient) get(ctx context.Context, key string) (one mapping, err error) {
	return one, c.do(ctx, http.MethodGet, key, nil, &one)
}

func (c *controlClient) pin(ctx context.Context, name string, addr netip.Addr) (one mapping, err error) {
	return one, c.do(ctx, http.MethodPut, name, pinRequest{addr}, &one)
}

func (c *controlClient) unpin(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, name, nil, new(struct{}))
}

// do makes one request and reads the answer into result.
func (c *controlClient) do(ctx context.Context, method, key string, body, result any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	target := "http://gateway/names"
	if key != "" {
		target += "/" + url.PathEscape(key)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(text))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the gateway at %s: %w", c.path, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(result); err != nil {
			return fmt.Errorf("read the gateway's answer: %w", err)
		}
		return nil
	}
	why, err := io.ReadAll(io.LimitReader(resp.Body, controlBody))
	switch {
	case err != nil:
		return fmt.Errorf("read the gateway's answer: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return errNoMapping
	}
	return errors.New(string(bytes.TrimSpace(why)))
}
