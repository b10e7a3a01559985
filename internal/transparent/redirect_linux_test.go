package transparent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle"
)

// REDIRECT in both families, asked of connection tracking.
func TestOriginalDst(t *testing.T) {
	w := newWorld(t, Rules{})
	const nft = "/usr/sbin/nft"
	port := fmt.Sprint(argyle.AddrOf(w.ln.Addr()).Port)
	cmd := w.command(nft, "-f", "-")
	cmd.Stdin = strings.NewReader(`
delete table inet argyle
table inet r {
	chain o {
		type nat hook output priority -100
		tcp dport 8080 redirect to :` + port + `
	}
}
`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("no REDIRECT: %v: %s", err, out)
	}
	var got seen
	w.serve(&Server{Dest: OriginalDst, Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		got.add(call.Request())
		echo(call)
	})})
	for _, dest := range []string{"192.0.2.1:8080", "[2001:db8::1]:8080", "127.0.0.1:8080"} {
		cmd := w.client("stream", dest)
		cmd.Stdin = strings.NewReader(dest)
		if out := w.run(cmd); out != dest {
			t.Errorf("%s: %q", dest, out)
		}
	}
	if dests := strings.Join(got.dests(), " "); dests != "192.0.2.1:8080 [2001:db8::1]:8080 127.0.0.1:8080" {
		t.Errorf("calls to %s", dests)
	}
	// Straight to the port there is no other destination.
	straight := "127.0.0.1:" + port
	cmd = w.client("stream", straight)
	cmd.Stdin = strings.NewReader("x")
	if out, err := cmd.CombinedOutput(); err == nil || len(got.all()) != 3 {
		t.Errorf("%s: %v: %s", straight, err, out)
	}
}

// Who may not is told so, and not that the kernel cannot.
func TestInstallDenied(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may")
	}
	r := Rules{Table: "argyle-test", TCP: 1, UDP: 1}
	if err := r.Install(); !errors.Is(err, syscall.EPERM) || errors.Is(err, ErrNoTPROXY) {
		t.Errorf("Install: %v", err)
	}
	if queue, err := OpenQueue(7); !errors.Is(err, syscall.EPERM) || errors.Is(err, ErrNoQueue) {
		queue.Close()
		t.Errorf("OpenQueue: %v", err)
	}
}

func TestLacking(t *testing.T) {
	for err, want := range map[error]bool{
		syscall.ENOENT: true, syscall.EOPNOTSUPP: true, syscall.EPERM: false, syscall.EEXIST: false, syscall.ENOMEM: false,
	} {
		if got := errors.Is(lacking(errors.Join(err)), ErrNoTPROXY); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	if err := lacking(nil); err != nil {
		t.Error(err)
	}
}
