package socks_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
)

// A server with a rule and a hook.
func ExampleServer() {
	rule := func(_ context.Context, req *argyle.Request) (argyle.Dialer, error) {
		if req.Dest.Port == 25 {
			return nil, argyle.ErrNotAllowed
		}
		return &argyle.Direct{}, nil
	}
	hook := func(s *proxy.Session) {
		if over, err := s.Ended(); over {
			fmt.Println(s.Request().Command, s.Request().Dest, err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // 127.0.0.1:1080
	if err != nil {
		log.Fatal(err)
	}
	server := &socks.Server{Handler: &proxy.Proxy{Policy: proxy.PolicyFunc(rule), OnSession: hook}}
	go server.Serve(ln)
	defer server.Shutdown(context.Background())

	_, err = (&socks.Dialer{Addr: ln.Addr().String()}).Dial("tcp", "mail.example:25")
	fmt.Println(err != nil)
	// Unordered output:
	// connect mail.example:25 not allowed by the rules
	// true
}

// A client in three lines.
func ExampleDialer() {
	gw := exampleServer()
	defer gw.Close()

	d := &socks.Dialer{Addr: gw.Addr}
	conn, err := d.DialContext(context.Background(), "tcp", gw.Echo)
	fmt.Println(conn != nil, err)
	conn.Close()
	// Output: true <nil>
}

// An http.Client that goes through the proxy, and lets it resolve the names.
func ExampleDialer_http() {
	gw := exampleServer()
	defer gw.Close()
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()

	d := &socks.Dialer{Addr: gw.Addr}
	client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
	response, err := client.Get(page.URL)
	if err != nil {
		log.Fatal(err)
	}
	response.Body.Close()
	fmt.Println(response.StatusCode)
	// Output: 404
}

// Datagrams: one socket, any destination, names too.
func ExampleDialer_ListenPacket() {
	gw := exampleServer()
	defer gw.Close()

	conn, err := (&socks.Dialer{Addr: gw.Addr}).ListenPacket(context.Background(), "udp", "")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.WriteTo([]byte("hello"), argyle.Addr{Name: "dns.example", Port: 53})
	fmt.Println(err)
	// Output: <nil>
}

// BIND: the proxy waits for a connection from a peer.
func ExampleDialer_Listen() {
	gw := exampleServer()
	defer gw.Close()

	ln, err := (&socks.Dialer{Addr: gw.Addr}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go func() { // the peer, told of ln.Addr() by other means
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err == nil {
			_, _ = conn.Write([]byte("here I am"))
			conn.Close()
		}
	}()
	conn, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	b, _ := io.ReadAll(conn)
	fmt.Println(string(b))
	// Output: here I am
}

// A chain is a Dialer within a Dialer: through near to far.
func ExampleDialer_chain() {
	near, far := exampleServer(), exampleServer()
	defer near.Close()
	defer far.Close()

	d := &socks.Dialer{Addr: far.Addr, Forward: &socks.Dialer{Addr: near.Addr}}
	conn, err := d.Dial("tcp", far.Echo)
	fmt.Println(conn != nil, err)
	conn.Close()
	// Output: true <nil>
}

// gateway is a running server for the examples, and an echo server beside it.
type gateway struct {
	Addr, Echo string
	server     *socks.Server
	proxy      *proxy.Proxy
	echo       net.Listener
}

func exampleServer() *gateway {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	p := new(proxy.Proxy)
	g := &gateway{Addr: ln.Addr().String(), Echo: echo.Addr().String(), server: &socks.Server{Handler: p}, proxy: p, echo: echo}
	go g.server.Serve(ln)
	return g
}

func (g *gateway) Close() {
	g.echo.Close()
	g.server.Close()
	g.proxy.Close()
}
