package probe

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"
)

func relaying() []check {
	return []check{
		{"RELAY-BYTES", "RFC 1928 §6", Must, "relays a megabyte each way without a change", relayBytes, 0},
		{"RELAY-TAIL", "T36", Must, "delivers what was sent right before the end", relayTail, 0},
		{"RELAY-HALFUP", "T33", Must, "keeps the way down open when the client has ended its side", relayHalfUp, 0},
		{"RELAY-HALFDOWN", "T33", Must, "keeps the way up open when the target has ended its side", relayHalfDown, 0},
		{"RELAY-RESETDOWN", "T34", Robust, "passes the target's reset on", relayResetDown, 0},
		{"RELAY-RESETUP", "T34", Robust, "passes the client's reset on", relayResetUp, 0},
		{"RELAY-END", "RFC 1928 §6", Must, "ends when both sides have ended", relayEnd, 0},
	}
}

func relayBytes(ctx context.Context, s *session) error {
	c, err := s.command(ctx, "echo")
	if err != nil {
		return err
	}
	const size = 1 << 20
	sent, got := sha256.New(), sha256.New()
	wrote := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(c.Conn, sent), rand.NewChaCha8([32]byte{7}), size)
		wrote <- err
	}()
	_, err = io.CopyN(got, c.Conn, size)
	if err != nil {
		c.Close()
	}
	if werr := <-wrote; err == nil {
		err = werr
	}
	if err == nil && string(sent.Sum(nil)) != string(got.Sum(nil)) {
		err = failed("what came back is something else")
	}
	return err
}

func relayTail(ctx context.Context, s *session) error {
	const size = 300_000
	c, err := s.command(ctx, "send %d", size)
	if err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond) // a reader that is late
	n, err := io.Copy(io.Discard, c.Conn)
	if n != size {
		return failed("%d of %d bytes came: %s", n, size, endText(err))
	}
	return err
}

func endText(err error) string {
	if err == nil || errors.Is(err, io.EOF) {
		return "then the end"
	}
	return plain(err)
}

func relayHalfUp(ctx context.Context, s *session) error {
	c, err := s.command(ctx, "after")
	if err != nil {
		return err
	}
	if _, err := io.WriteString(c, "request"); err != nil {
		return err
	}
	if err := c.closeWrite(); err != nil {
		return err
	}
	text, err := line(c)
	if text != "after 7" {
		return failed("after the client's end came %q, %s", text, endText(err))
	}
	return nil
}

// id names a result of the helper's.
func id() string { return fmt.Sprintf("%x", rand.Uint64()) }

func relayHalfDown(ctx context.Context, s *session) error {
	name := id()
	c, err := s.command(ctx, "half %s", name)
	if err != nil {
		return err
	}
	if end := ended(c, 3*time.Second); end != "" {
		return failed("the target's end does not come: %s", end)
	}
	time.Sleep(50 * time.Millisecond)
	for range 3 {
		if _, err := io.WriteString(c, "more"); err != nil {
			return failed("after the target's end: %s", plain(err))
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = c.closeWrite()
	text, err := s.helper.ask(ctx, "result "+name)
	if err == nil && text != "12 <nil>" {
		err = failed("of 12 bytes the target got %s", strings.Replace(text, "<nil>", "and the end", 1))
	}
	return err
}

func relayResetDown(ctx context.Context, s *session) error {
	c, err := s.command(ctx, "reset")
	if err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, err = c.Read(make([]byte, 1))
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return nil
	case errors.Is(err, io.EOF):
		return failed("comes as an end in order")
	}
	return failed("%s", endText(err))
}

func relayResetUp(ctx context.Context, s *session) error {
	name := id()
	c, err := s.command(ctx, "watch %s", name)
	if err != nil {
		return err
	}
	if text, err := line(c); text != "watching" {
		return failed("came %q, %v", text, err)
	}
	if err := c.reset(); err != nil {
		return err
	}
	text, err := s.helper.ask(ctx, "result "+name)
	switch {
	case err != nil:
		return err
	case text == "end":
		return failed("comes as an end in order")
	case text != "reset":
		return failed("the target notices %s", text)
	}
	return nil
}

func relayEnd(ctx context.Context, s *session) error {
	c, err := s.command(ctx, "echo")
	if err != nil {
		return err
	}
	if err := c.closeWrite(); err != nil {
		return err
	}
	if end := ended(c, 4*time.Second); end != "" {
		return failed("%s", end)
	}
	return nil
}
