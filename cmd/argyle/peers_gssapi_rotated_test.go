//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle/krb5"
)

// gssapiRotator makes tokens without room for a trailer, so that MIT's library rotates them as Windows does: messages of no
// bytes, of one and so on. Then it tells what it reads in tokens.
const gssapiRotator = `
import gssapi, sys
from gssapi.raw import wrap_iov, IOV, IOVBufferType as Buffer
FLAGS = gssapi.RequirementFlag
context = gssapi.SecurityContext(name=gssapi.Name(sys.argv[1] + "@localhost", gssapi.NameType.hostbased_service), usage="initiate",
    flags=[FLAGS.mutual_authentication, FLAGS.out_of_sequence_detection, FLAGS.confidentiality, FLAGS.integrity])
print(context.step().hex(), flush=True)
context.step(bytes.fromhex(sys.stdin.readline()))
for confidential in (False, True):
    for size in range(80):
        iov = IOV(Buffer.header, b"m" * size, Buffer.padding, std_layout=False)
        assert wrap_iov(context, iov, confidential=confidential) == confidential
        print(b"".join(b.value or b"" for b in iov).hex(), flush=True)
for line in sys.stdin:
    message, encrypted, _ = context.unwrap(bytes.fromhex(line))
    print(message.hex(), flush=True)
`

// TestGSSAPIRotated has MIT's library read tokens that are rotated, and make some, and its KDC sign its certificates.
func TestGSSAPIRotated(t *testing.T) {
	t.Parallel()
	python := pythonWith(t, "gssapi")
	r := startRealm(t)
	cache := r.kinit(t, "alice", "krb5.conf")
	for enctype := range enctypes {
		t.Run(fmt.Sprint(enctype), func(t *testing.T) {
			service := fmt.Sprintf("rcmd%d", enctype)
			cmd := with(r.command(t, python, "-c", gssapiRotator, service), "KRB5CCNAME", cache)
			cmd.Stderr = os.Stderr
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Kill() // if it has not ended
				_ = cmd.Wait()
			})
			var log bytes.Buffer
			a := &krb5.Acceptor{Keytab: r.keytab, Service: service, Log: slog.New(slog.NewTextHandler(&log, nil))}
			exchangeRotated(t, a.Accept(), in, bufio.NewReader(out))
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if log.Len() > 0 {
				t.Errorf("the certificate of MIT's KDC: %s", &log)
			}
		})
	}
}

func exchangeRotated(t *testing.T, c *krb5.Context, in io.Writer, out *bufio.Reader) {
	next := func() []byte {
		t.Helper()
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		b, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	reply, done, err := c.Step(next())
	if err != nil || !done {
		t.Fatal(done, err)
	}
	fmt.Fprintf(in, "%x\n", reply)
	for _, conf := range []bool{false, true} {
		for size := range 80 {
			token := next()
			rotation := [2]byte(token[6:])
			got, wasConf, err := c.Unwrap(token, true)
			if err != nil || rotation == [2]byte{} || wasConf != conf || string(got) != strings.Repeat("m", size) {
				t.Errorf("%d bytes, conf %v, rotated by % x: %q, %v", size, conf, rotation, got, err)
			}
		}
	}
	for _, conf := range []bool{false, true} {
		for _, n := range []int{0, 12, 28, 100, 65535} {
			token, err := c.Wrap(nil, []byte("message"), conf)
			if err != nil {
				t.Fatal(err)
			}
			token[6], token[7] = byte(n>>8), byte(n)
			body := token[16:]
			at := len(body) - n%len(body)
			copy(body, append(bytes.Clone(body[at:]), body[:at]...))
			fmt.Fprintf(in, "%x\n", token)
			if got := next(); string(got) != "message" {
				t.Errorf("conf %v, rotated by %d: MIT reads %q", conf, n, got)
			}
		}
	}
}
