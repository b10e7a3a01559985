//go:build unix

package serve

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

const starvedEnv = "ARGYLE_TEST_STARVED"

// A process out of descriptors goes on with the clients it has, says so, and
// serves the others as soon as it can.
func TestStarved(t *testing.T) {
	if os.Getenv(starvedEnv) != "" {
		starve(t)
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStarved$")
	child.Env = append(os.Environ(), starvedEnv+"=1")
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer stdin.Close()
	lines := bufio.NewScanner(stdout)
	expect := func(text string) string {
		t.Helper()
		for lines.Scan() {
			if _, rest, ok := strings.Cut(lines.Text(), text); ok {
				return rest
			}
		}
		t.Fatalf("the child ended without saying %q", text)
		return ""
	}

	addr := expect("listening on ")
	var clients []net.Conn
	for i := range 3 * spare {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write([]byte{byte(i)})
		clients = append(clients, c)
	}
	expect("cannot accept connections for now")
	b := make([]byte, 1)
	for i, c := range clients {
		if _, err := io.ReadFull(c, b); err != nil || b[0] != byte(i) {
			t.Fatalf("client %d read %d, %v", i, b[0], err)
		}
		c.Close()
	}
	stdin.Close()
	if got, want := expect("ended: "), ErrServerClosed.Error(); got != want {
		t.Errorf("Serve: %s, want %s", got, want)
	}
}

// spare is how many descriptors the child may still open.
const spare = 8

// starve is the child: an echo server that runs out of descriptors.
func starve(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	next, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = 0
	for range uint64(next.Fd()) + spare {
		limit.Cur++ // its type differs between systems
	}
	next.Close()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Log: slog.New(slog.NewTextHandler(os.Stdout, nil)),
		Handle: func(ctx context.Context, conn net.Conn) {
			Established(ctx)
			io.Copy(conn, conn)
			conn.Close()
		},
	}
	wait := run(s, ln)
	fmt.Println("listening on", ln.Addr())
	io.Copy(io.Discard, os.Stdin)
	s.Close()
	fmt.Println("ended:", wait())
}
