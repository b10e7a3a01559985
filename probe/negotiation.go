package probe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// handshakeTime is how long a proxy may wait for a client that says nothing.
const handshakeTime = 12 * time.Second

func negotiation() []check {
	return []check{
		{"NEG-METHOD", "RFC 1928 §3", Must, "selects one of the methods that are offered", negMethod, 0},
		{"NEG-NONE", "RFC 1928 §3", Must, "answers FF to an offer it cannot take", negNone, 0},
		{"NEG-FF", "RFC 1928 §3, T3", Robust, "lets the client read FF, and closes without a reset", negFF, 0},
		{"NEG-SPLIT", "T1", Must, "reads messages in pieces", negSplit, 0},
		{"NEG-GLUED", "T1, T2", Must, "reads messages that come at once", negGlued, 0},
		{"NEG-MANY", "RFC 1928 §3, T3", Must, "takes an offer of 255 methods", negMany, 0},
		{"NEG-ZERO", "T3", Robust, "answers an offer of no methods with FF, or ends", negZero, 0},
		{"NEG-GARBAGE", "T8", Robust, "ends a connection that begins with nonsense", negGarbage, 0},
		{"NEG-DEADLINE", "T41", Robust, "ends a connection that says nothing", negDeadline, handshakeTime + time.Second},
		{"AUTH-LOGIN", "RFC 1929 §2", Must, "takes the account, with VER 1 and STATUS 0", authLogin, 0},
		{"AUTH-WRONG", "RFC 1929 §2", Must, "refuses a wrong password, and closes", authWrong, 0},
		{"AUTH-PLACE", "T6", Robust, "refuses a wrong password in the answer to it", authPlace, 0},
		{"AUTH-EMPTY", "T5", Robust, "survives an empty name and password", authEmpty, 0},
		{"AUTH-SPLIT", "T1", Must, "reads the password in pieces", authSplit, 0},
		{"AUTH-BYPASS", "RFC 1928 §3", Must, "has no way around the account by offering nothing", authBypass, 0},
		{"AUTH-BYPASS4", "T4", Must, "has no way around the account by SOCKS 4", authBypass4, 0},
		{"AUTH-BYPASSHTTP", "T8", Must, "has no way around the account by HTTP", authBypassHTTP, 0},
		{"GSS-OFFER", "RFC 1928 §3", Told, "GSS-API", gssOffer, 0},
		{"GSS-REFUSAL", "RFC 1961 §3.6", Must, "refuses a token that is none with 01 FF", gssRefusal, 0},
		{"GSS-TYPE", "RFC 1961 §3.3", Must, "goes no further for a client without a context", gssType, 0},
		{"GSS-CUT", "RFC 1961 §3.3", Robust, "ends when a token is cut short", gssCut, 0},
	}
}

// offer sends methods and returns the one that is chosen.
func (s *session) offer(ctx context.Context, methods ...byte) (*tracedConn, byte, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return nil, 0, err
	}
	if _, err := c.Write(append([]byte{5, byte(len(methods))}, methods...)); err != nil {
		return nil, 0, err
	}
	answer, err := exactly(c, 2)
	if err != nil {
		return c, 0, err
	}
	if answer[0] != 5 {
		return c, 0, failed("answered with % x", answer)
	}
	return c, answer[1], nil
}

func negMethod(ctx context.Context, s *session) error {
	_, method, err := s.offer(ctx, s.methods()...)
	if err == nil && !bytes.Contains(s.methods(), []byte{method}) {
		err = failed("of % x it chose %#02x", s.methods(), method)
	}
	s.note("method %d", method)
	return err
}

func negNone(ctx context.Context, s *session) error {
	_, method, err := s.offer(ctx, 0x80, 0xfe)
	if err == nil && method != 0xff {
		err = failed("of 80 fe it chose %#02x", method)
	}
	return err
}

func negFF(ctx context.Context, s *session) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	// A client that goes on at once: what is unread must make no reset.
	if _, err := c.Write(append([]byte{5, 1, 0x80, 5, 1, 0}, s.helperDest()...)); err != nil {
		return err
	}
	answer, err := exactly(c, 2)
	if err != nil {
		return err
	}
	if !bytes.Equal(answer, []byte{5, 0xff}) {
		return failed("answered with % x", answer)
	}
	if end := ended(c, 4*time.Second); end != "" {
		return failed("after FF: %s", end)
	}
	return nil
}

// pieces writes b byte for byte.
func pieces(c *tracedConn, b []byte) error {
	for i := range b {
		if _, err := c.Write(b[i:][:1]); err != nil {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

func negSplit(ctx context.Context, s *session) error {
	if s.hasAccount() {
		return skipped("see AUTH-SPLIT")
	}
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	if err := pieces(c, []byte{5, 1, 0}); err != nil {
		return failed("in the greeting: %s", plain(err))
	}
	if answer, err := exactly(c, 2); err != nil || answer[1] != 0 {
		return failed("after a greeting in pieces: %s", came(answer, err))
	}
	if err := pieces(c, append([]byte{5, cmdConnect, 0}, s.helperDest()...)); err != nil {
		return failed("in the request: %s", plain(err))
	}
	return s.connected(c)
}

// connected reads a reply, and uses the connection.
func (s *session) connected(c *tracedConn) error {
	r, err := readReply(c)
	if err != nil {
		return err
	}
	if r.rep != repSucceeded {
		return failed("REP %d", r.rep)
	}
	if _, err := io.WriteString(c, s.helper.secret+" echo\nping"); err != nil {
		return err
	}
	if b, err := exactly(c, 4); err != nil || string(b) != "ping" {
		return failed("came back: %s", came(b, err))
	}
	return nil
}

func negGlued(ctx context.Context, s *session) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	b := []byte{5, 1, 0}
	if s.hasAccount() {
		b = append([]byte{5, 1, 2, 1, byte(len(s.prober.User))}, s.prober.User...)
		b = append(append(b, byte(len(s.prober.Password))), s.prober.Password...)
	}
	b = append(append(b, 5, cmdConnect, 0), s.helperDest()...)
	b = append(b, s.helper.secret+" echo\nearly"...)
	if _, err := c.Write(b); err != nil {
		return err
	}
	if _, err := exactly(c, 2); err != nil {
		return err
	}
	if s.hasAccount() {
		if _, err := exactly(c, 2); err != nil {
			return err
		}
	}
	r, err := readReply(c)
	if err != nil {
		return err
	}
	if r.rep != repSucceeded {
		return failed("REP %d", r.rep)
	}
	if b, err := exactly(c, 5); err != nil || string(b) != "early" {
		return failed("what came with the request is lost: %s", came(b, err))
	}
	return nil
}

func negMany(ctx context.Context, s *session) error {
	all := make([]byte, 255)
	for i := range all {
		all[i] = byte(0x80 + i%0x7e)
	}
	want := s.methods()[len(s.methods())-1]
	all[254] = want
	_, method, err := s.offer(ctx, all...)
	if err == nil && method != want {
		err = failed("%d is the last of 255 methods, it chose %#02x", want, method)
	}
	return err
}

func negZero(ctx context.Context, s *session) error {
	c, method, err := s.offer(ctx)
	switch {
	case err == nil && method != 0xff:
		return failed("it chose %#02x of no methods", method)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failed("neither an answer nor an end")
	case err == nil:
		if end := ended(c, 2*time.Second); end != "" && end != "reset" {
			return failed("after FF: %s", end)
		}
	}
	return nil
}

func negGarbage(ctx context.Context, s *session) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	if _, err := c.Write([]byte{0x93, 0xff, 0x00, 0x07, 0x0d, 0x0a}); err != nil {
		return err
	}
	if end := ended(c, 4*time.Second); end != "" && end != "reset" {
		return failed("%s", end)
	}
	return nil
}

func negDeadline(ctx context.Context, s *session) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if end := ended(c, handshakeTime); end != "" && end != "reset" {
		return failed("%s", end)
	}
	s.note("after %v", time.Since(began).Round(100*time.Millisecond))
	return nil
}

// password goes as far as to where a password is wanted.
func (s *session) password(ctx context.Context) (*tracedConn, error) {
	if !s.hasAccount() {
		return nil, skipped("needs an account in the URL")
	}
	c, method, err := s.offer(ctx, 2)
	if err != nil {
		return nil, err
	}
	if method != 2 {
		return nil, unsupported("username/password is not accepted: method %#02x", method)
	}
	return c, nil
}

func authLogin(ctx context.Context, s *session) error {
	c, err := s.password(ctx)
	if err != nil {
		return err
	}
	b := append([]byte{1, byte(len(s.prober.User))}, s.prober.User...)
	b = append(append(b, byte(len(s.prober.Password))), s.prober.Password...)
	if _, err := c.Write(b); err != nil {
		return err
	}
	answer, err := exactly(c, 2)
	if err != nil {
		return err
	}
	if !bytes.Equal(answer, []byte{1, 0}) {
		return failed("answered with % x", answer)
	}
	return nil
}

func authWrong(ctx context.Context, s *session) error {
	c, err := s.password(ctx)
	if err != nil {
		return err
	}
	status, err := s.tryLogin(c, s.prober.User, s.prober.Password+"x")
	if err != nil {
		return nil //nolint:nilerr // closed without an answer: nobody was let in
	}
	if status == 0 {
		r, err := s.request(c, cmdConnect, s.helperDest())
		if err == nil && r.rep == repSucceeded {
			return failed("the wrong password works")
		}
		s.note("the login is answered with success, the request with REP %d", r.rep)
		return nil
	}
	if end := ended(c, 4*time.Second); end != "" && end != "reset" {
		return failed("after STATUS %d: %s", status, end)
	}
	return nil
}

func authPlace(ctx context.Context, s *session) error {
	c, err := s.password(ctx)
	if err != nil {
		return err
	}
	status, err := s.tryLogin(c, s.prober.User, s.prober.Password+"x")
	if err == nil && status == 0 {
		err = failed("answered with success")
	}
	return err
}

func authEmpty(ctx context.Context, s *session) error {
	c, err := s.password(ctx)
	if err != nil {
		return err
	}
	if status, err := s.tryLogin(c, "", ""); err == nil && status == 0 {
		r, err := s.request(c, cmdConnect, s.helperDest())
		if err == nil && r.rep == repSucceeded {
			return failed("an empty account works")
		}
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		return failed("neither an answer nor an end")
	}
	return nil
}

func authSplit(ctx context.Context, s *session) error {
	c, err := s.password(ctx)
	if err != nil {
		return err
	}
	b := append([]byte{1, byte(len(s.prober.User))}, s.prober.User...)
	b = append(append(b, byte(len(s.prober.Password))), s.prober.Password...)
	if err := pieces(c, b); err != nil {
		return err
	}
	if answer, err := exactly(c, 2); err != nil || answer[1] != 0 {
		return failed("after a password in pieces: %s", came(answer, err))
	}
	if err := pieces(c, append([]byte{5, cmdConnect, 0}, s.helperDest()...)); err != nil {
		return err
	}
	return s.connected(c)
}

func authBypass(ctx context.Context, s *session) error {
	if !s.hasAccount() {
		return skipped("needs an account in the URL")
	}
	c, method, err := s.offer(ctx, 0)
	if err != nil || method != 0 {
		return nil //nolint:nilerr // nobody was let in
	}
	r, err := s.request(c, cmdConnect, s.helperDest())
	if err == nil && r.rep == repSucceeded {
		return failed("who offers no method but none is let in")
	}
	return nil
}

func authBypass4(ctx context.Context, s *session) error {
	if !s.hasAccount() {
		return skipped("needs an account in the URL")
	}
	r, _, err := s.ask4(ctx, cmdConnect, "")
	if isStatus(err, Skipped) {
		return err
	}
	if err == nil && r.cd == granted {
		return failed("SOCKS 4 needs no account")
	}
	return nil
}

func authBypassHTTP(ctx context.Context, s *session) error {
	if !s.hasAccount() {
		return skipped("needs an account in the URL")
	}
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(c, "CONNECT "+s.helperAddr()+" HTTP/1.1\r\nHost: "+s.helperAddr()+"\r\n\r\n"); err != nil {
		return err
	}
	if status, _ := line(c); bytes.Contains([]byte(status), []byte(" 200")) {
		return failed("CONNECT needs no account")
	}
	return nil
}

func gssOffer(ctx context.Context, s *session) error {
	_, method, err := s.offer(ctx, 1)
	switch {
	case err != nil || method == 0xff:
		return unsupported("not accepted")
	case method != 1:
		return failed("of 01 it chose %#02x", method)
	}
	s.note("accepted")
	return nil
}

// gss goes as far as to where a token is wanted.
func (s *session) gss(ctx context.Context) (*tracedConn, error) {
	c, method, err := s.offer(ctx, 1)
	if err != nil || method != 1 {
		return nil, unsupported("GSS-API is not accepted")
	}
	return c, nil
}

func gssRefusal(ctx context.Context, s *session) error {
	c, err := s.gss(ctx)
	if err != nil {
		return err
	}
	if _, err := c.Write([]byte("\x01\x01\x00\x07no such")); err != nil {
		return err
	}
	answer, err := exactly(c, 2)
	if err != nil {
		return err
	}
	if !bytes.Equal(answer, []byte{1, 0xff}) {
		return failed("answered with % x", answer)
	}
	return nil
}

func gssType(ctx context.Context, s *session) error {
	c, err := s.gss(ctx)
	if err != nil {
		return err
	}
	// A level, and a request, from a client who has shown nothing.
	if _, err := c.Write(append([]byte{1, 2, 0, 1, 0, 5, cmdConnect, 0}, s.helperDest()...)); err != nil {
		return err
	}
	b, _ := io.ReadAll(io.LimitReader(c, 64))
	if bytes.Contains(b, []byte{5, 0, 0}) || bytes.HasPrefix(b, []byte{1, 2}) {
		return failed("answered with % x", b)
	}
	return nil
}

func gssCut(ctx context.Context, s *session) error {
	c, err := s.gss(ctx)
	if err != nil {
		return err
	}
	if _, err := c.Write([]byte("\x01\x01\x10\x00cut")); err != nil {
		return err
	}
	if err := c.closeWrite(); err != nil {
		return err
	}
	if end := ended(c, 4*time.Second); end != "" && end != "reset" {
		return failed("%s", end)
	}
	return nil
}
