package httpconnect_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/proxy"
)

// A proxy with a rule, and an http.Client that goes through it.
func Example() {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello")
	}))
	defer web.Close()

	p := &proxy.Proxy{Policy: proxy.PolicyFunc(func(_ context.Context, req *argyle.Request) (argyle.Dialer, error) {
		if req.Dest.Name == "forbidden.example" {
			return nil, argyle.ErrNotAllowed
		}
		return &argyle.Direct{}, nil
	})}
	defer p.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := (&httpconnect.Server{Handler: p}).HTTPServer()
	defer server.Close()
	go server.Serve(ln)

	d := &httpconnect.Dialer{Addr: ln.Addr().String()}
	client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
	resp, err := client.Get(web.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)

	_, err = d.Dial("tcp", "forbidden.example:80")
	fmt.Println(errors.Is(err, argyle.ErrNotAllowed))
	// Output:
	// hello <nil>
	// true
}
