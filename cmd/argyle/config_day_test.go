//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/argyle-socks/argyle/socks"
)

// TestDay runs testdata/day: the life of a gateway with a configuration, from
// its first start to its stop. The scripts know $DANTED, $SSH (ssh -D) and
// $MICRO (microsocks), and $SITE, a website.
//
//	listening ADDR          waits until somebody listens
//	load ADDR USER          begins to ask the proxy for $SITE all the time
//	endload                 ends that: no request may have failed
//	end NAME                kills danted, ssh or microsocks
//	grows FILE N PATTERN    waits for N lines with PATTERN
func TestDay(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	box := startSSHD(t)
	danted(t, "1080", "none")
	ssh := start(t, box.client(t, "-N", "-D", "127.0.0.1:1082"))
	micro := start(t, command(t, peer(t, "microsocks"), "-i", "127.0.0.1", "-p", "1083"))
	peer(t, "curl")
	site := websiteAs(t, "127.0.0.1")
	l := &load{site: site}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join(sourceDir(t), "testdata/day"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			bin := filepath.Join(env.WorkDir, ".bin")
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			for _, variable := range programEnv {
				name, value, _ := strings.Cut(variable, "=")
				env.Setenv(name, value)
			}
			for name, value := range map[string]string{
				"DANTED": "127.0.0.1:1080", "SSH": "127.0.0.1:1082", "MICRO": "127.0.0.1:1083", "SITE": site, "PAGE": page,
			} {
				env.Setenv(name, value)
			}
			if err := os.Mkdir(bin, 0o700); err != nil {
				return err
			}
			return os.Symlink(testBinary(t), filepath.Join(bin, "argyle"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"listening": func(ts *testscript.TestScript, _ bool, args []string) {
				wait(ts, args[0]+" to listen", func() bool {
					conn, err := net.Dial("tcp", args[0])
					if err == nil {
						conn.Close()
					}
					return err == nil
				})
			},
			"grows": grows,
			"load": func(ts *testscript.TestScript, _ bool, args []string) {
				l.begin(&socks.Dialer{Addr: args[0], User: args[1], Password: password})
				wait(ts, "the first request", func() bool { return l.served.Load() > 0 })
			},
			"endload": func(ts *testscript.TestScript, _ bool, _ []string) {
				served, failed := l.end()
				ts.Logf("%d requests", served)
				if failed != "" {
					ts.Fatalf("a request failed: %s", failed)
				}
			},
			"end": func(ts *testscript.TestScript, _ bool, args []string) {
				map[string]*child{"ssh": ssh, "microsocks": micro}[args[0]].kill()
			},
		},
	})
}

// sourceDir is the folder of this file: in a namespace, tests run elsewhere.
func sourceDir(t *testing.T) string {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("where is this file?")
	}
	return filepath.Dir(file)
}

// wait is eventually for scripts.
func wait(ts *testscript.TestScript, what string, ready func() bool) {
	for end := time.Now().Add(patience); !ready(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("waited in vain for %s", what)
		}
	}
}

// grows waits until a file has so many lines with a text.
func grows(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 || len(args[1]) != 1 {
		ts.Fatalf("usage: grows FILE N TEXT")
	}
	count := 0
	wait(ts, args[1]+" lines with "+args[2], func() bool {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		count = strings.Count(string(text), args[2])
		return err == nil && count >= int(args[1][0]-'0')
	})
}

// load asks for a page all the time.
type load struct {
	site    string
	served  atomic.Int64
	failed  atomic.Pointer[string]
	cancel  context.CancelFunc
	clients sync.WaitGroup
}

func (l *load) begin(d *socks.Dialer) {
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	l.served.Store(0)
	l.failed.Store(nil)
	for range 8 {
		l.clients.Go(func() {
			client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
			for ctx.Err() == nil {
				err := get(client, "http://"+l.site+"/")
				var dial *net.OpError
				if err != nil && !(errors.As(err, &dial) && dial.Op == "dial") {
					// Its session was on the upstream that has died: nobody can
					// mend that but the client, who asks again.
					err = get(client, "http://"+l.site+"/")
				}
				if err != nil {
					text := err.Error()
					l.failed.CompareAndSwap(nil, &text)
					return
				}
				l.served.Add(1)
			}
		})
	}
}

func get(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// end returns how many requests were served, and what the first failure was.
func (l *load) end() (served int64, failed string) {
	l.cancel()
	l.clients.Wait()
	if text := l.failed.Load(); text != nil {
		failed = *text
	}
	return l.served.Load(), failed
}
