package krb5

import (
	"crypto/aes"
	"crypto/hmac"
	"errors"
	"fmt"
	"sync"

	"github.com/jcmturner/gokrb5/v8/types"
)

// A Context is one end of a security context. [Context.Step] establishes it;
// then messages may be wrapped and unwrapped, by several goroutines at once.
type Context struct {
	step func(token []byte) (reply []byte, err error) // nil once established

	peer   string
	groups []string

	mine, theirs side
}

// The key usages (RFC 4121, section 2).
const (
	usageAcceptorSeal  = 22
	usageAcceptorSign  = 23
	usageInitiatorSeal = 24
	usageInitiatorSign = 25
)

// side is what protects the messages of one end.
type side struct {
	mu    sync.Mutex
	key   types.EncryptionKey
	flags byte // of every token

	// Made when first needed: few contexts need all.
	seals *sealer // sealed Wrap tokens
	wraps *summer // Wrap tokens that are not sealed
	mics  *summer // MIC tokens

	head [headerSize]byte // of the token at hand
	seq  uint64           // the next to be sent
	window
}

// begin returns the bytes of a header, valid until the next call.
func (s *side) begin(h header) []byte {
	s.head = h.bytes()
	return s.head[:]
}

// establish gives the context its key, and the first numbers of both sides.
func (c *Context) establish(key types.EncryptionKey, isAcceptor, hasSubkey bool, mine, theirs uint32) {
	var common byte
	if hasSubkey {
		common = acceptorSubkey
	}
	c.mine.key, c.theirs.key = key, key
	c.mine.flags, c.theirs.flags = common, common
	if isAcceptor {
		c.mine.flags |= sentByAcceptor
	} else {
		c.theirs.flags |= sentByAcceptor
	}
	c.mine.seq = uint64(mine)
	c.theirs.window = window{first: uint64(theirs), next: uint64(theirs)}
}

// Step takes the other side's token, nil for the first step of an initiator,
// and returns the token for it, empty if it needs none. After the step that
// reports done the context is established; after an error it is of no use.
func (c *Context) Step(token []byte) (reply []byte, done bool, err error) {
	if c.step == nil {
		return nil, true, errors.New("kerberos: the context is established, or failed")
	}
	step := c.step
	c.step = nil
	if reply, err = guarded(step, token); err != nil {
		return nil, false, fmt.Errorf("kerberos: %w", err)
	}
	return reply, c.step == nil, nil
}

// guarded turns a panic over a strange message into an error: what takes
// messages of Kerberos apart was not made for hostile ones.
func guarded(step func([]byte) ([]byte, error), token []byte) (reply []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed message: %v", r)
		}
	}()
	return step(token)
}

// Peer returns the principal of the other side, as alice@EXAMPLE.COM. What
// means something in a name, such as / and @, has a \ before it if it belongs
// to a component.
func (c *Context) Peer() string { return c.peer }

// Groups returns the security identifiers of the groups that the peer belongs
// to, as S-1-5-21-…, which Active Directory puts into tickets. Only an
// acceptor sees them.
func (c *Context) Groups() []string { return c.groups }

// usages returns those of a side.
func (s *side) usages() (seal, sign uint32) {
	if s.flags&sentByAcceptor != 0 {
		return usageAcceptorSeal, usageAcceptorSign
	}
	return usageInitiatorSeal, usageInitiatorSign
}

// needSeals makes sure that there is a sealer. s.mu is held.
func (s *side) needSeals() (err error) {
	if s.seals == nil {
		seal, _ := s.usages()
		s.seals, err = newSealer(s.key, seal)
	}
	return err
}

// needWraps does it for Wrap tokens that are not sealed. s.mu is held.
func (s *side) needWraps() (err error) {
	if s.wraps == nil {
		seal, _ := s.usages()
		s.wraps, err = newSummer(s.key, seal)
	}
	return err
}

// needMICs does it for MIC tokens. s.mu is held.
func (s *side) needMICs() (err error) {
	if s.mics == nil {
		_, sign := s.usages()
		s.mics, err = newSummer(s.key, sign)
	}
	return err
}

// MaxOverhead is by how much a Wrap token is longer than its message at most:
// header, confounder, copy of the header, and the longest HMAC.
const MaxOverhead = headerSize + 16 + headerSize + 24

// Wrap appends a token to dst that protects the integrity of msg, and if conf
// is true its confidentiality (RFC 2743, section 2.3.3; RFC 4121, section
// 4.2.4). dst and msg must not overlap.
func (c *Context) Wrap(dst, msg []byte, conf bool) ([]byte, error) {
	s := &c.mine
	s.mu.Lock()
	defer s.mu.Unlock()
	h := header{id: tokenWrap, flags: s.flags, seq: s.seq}
	if conf {
		if err := s.needSeals(); err != nil {
			return dst, err
		}
		h.flags |= sealed
		begin := s.begin(h)
		dst = append(grow(dst, len(msg)+MaxOverhead+16), begin...)
		dst = s.seals.seal(dst, msg, begin)
	} else {
		if err := s.needWraps(); err != nil {
			return dst, err
		}
		sum := s.wraps.checksum(msg, s.begin(h))
		h.extra = uint16(len(sum))
		dst = append(grow(dst, len(msg)+MaxOverhead), s.begin(h)...)
		dst = append(append(dst, msg...), sum...)
	}
	s.seq++
	return dst, nil
}

// Unwrap returns the message in a token of the other side's Wrap, which it
// changes, and whether it was confidential. With ordered, the token must be
// the one after the last, as those on a TCP connection are. Otherwise tokens
// may be missing or come late, as datagrams do, but none comes twice.
func (c *Context) Unwrap(token []byte, ordered bool) (msg []byte, conf bool, err error) {
	s := &c.theirs
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := s.header(token, tokenWrap)
	if err != nil {
		return nil, false, err
	}
	conf = h.flags&sealed != 0
	body := token[headerSize:]
	if err := s.long(body, conf); err != nil {
		return nil, conf, err
	}
	rotateLeft(body, int(h.right))
	if conf {
		msg, err = s.openSealed(h, body)
	} else {
		msg, err = s.openSummed(h, body)
	}
	if err == nil {
		err = s.accept(h.seq, ordered)
	}
	if err != nil {
		return nil, conf, err
	}
	return msg, conf, nil
}

// header reads the header of a token and looks whether it is of this side.
func (s *side) header(token []byte, id tokenID) (header, error) {
	h, err := parseHeader(token, id)
	switch {
	case err != nil:
		return h, err
	case (h.flags^s.flags)&sentByAcceptor != 0:
		return h, errors.New("token was sent back to where it came from")
	case (h.flags^s.flags)&acceptorSubkey != 0:
		return h, errors.New("token is not of the key that was agreed on")
	case h.flags&^(sentByAcceptor|sealed|acceptorSubkey) != 0:
		return h, fmt.Errorf("token with unknown flags %#02x", h.flags)
	}
	return h, nil
}

// long returns an error if a body is shorter than that of an empty message. Of
// such a one nothing is rotated. s.mu is held.
func (s *side) long(body []byte, conf bool) error {
	e, err := checkKey(s.key)
	if err != nil {
		return err
	}
	least := e.macSize
	if conf {
		least += aes.BlockSize + headerSize
	}
	if len(body) < least {
		return fmt.Errorf("token of %d bytes, want %d or more: %w", headerSize+len(body), headerSize+least, errTooShort)
	}
	return nil
}

// openSealed decrypts the message, which is followed by fillers and the header.
func (s *side) openSealed(h header, body []byte) ([]byte, error) {
	if err := s.needSeals(); err != nil {
		return nil, err
	}
	plain, err := s.seals.open(body)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	end := len(plain) - headerSize - int(h.extra)
	if end < 0 {
		return nil, fmt.Errorf("token with %d fillers: %w", h.extra, errTooShort)
	}
	h.right = 0
	inner := [headerSize]byte(plain[len(plain)-headerSize:])
	inner[6], inner[7] = 0, 0 // some leave RRC as it was sent
	if inner != h.bytes() {
		return nil, errors.New("token: the header was altered")
	}
	return plain[:end], nil
}

// openSummed checks the checksum that follows the message.
func (s *side) openSummed(h header, body []byte) ([]byte, error) {
	if err := s.needWraps(); err != nil {
		return nil, err
	}
	if int(h.extra) != s.wraps.macSize {
		return nil, fmt.Errorf("token with a checksum of %d bytes, want %d", h.extra, s.wraps.macSize)
	}
	msg, sum := body[:len(body)-s.wraps.macSize], body[len(body)-s.wraps.macSize:]
	h.extra, h.right = 0, 0
	if !hmac.Equal(sum, s.wraps.checksum(msg, s.begin(h))) {
		return nil, fmt.Errorf("token: %w", errIntegrity)
	}
	return msg, nil
}

// MIC appends a token to dst that protects the integrity of msg, which travels
// by itself (RFC 2743, section 2.3.1; RFC 4121, section 4.2.4).
func (c *Context) MIC(dst, msg []byte) ([]byte, error) {
	s := &c.mine
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.needMICs(); err != nil {
		return dst, err
	}
	begin := s.begin(header{id: tokenMIC, flags: s.flags, seq: s.seq})
	s.seq++
	return append(append(dst, begin...), s.mics.checksum(msg, begin)...), nil
}

// VerifyMIC returns an error if token is not the other side's MIC of msg, or
// comes out of order in the sense of [Context.Unwrap].
func (c *Context) VerifyMIC(msg, token []byte, ordered bool) error {
	s := &c.theirs
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := s.header(token, tokenMIC)
	if err != nil {
		return err
	}
	// RFC 4121, section 4.2.6.1: five octets of filler, and nothing is sealed.
	if h.flags&sealed != 0 || string(token[3:8]) != "\xff\xff\xff\xff\xff" {
		return errors.New("token: the header of a MIC was altered")
	}
	if err := s.needMICs(); err != nil {
		return err
	}
	if !hmac.Equal(token[headerSize:], s.mics.checksum(msg, s.begin(h))) {
		return fmt.Errorf("token: %w", errIntegrity)
	}
	return s.accept(h.seq, ordered)
}

// windowSize is by how many tokens one may come late.
const windowSize = 1024

// maxJump is how many tokens may be missing.
const maxJump = 1 << 32

// window knows which numbers have come.
type window struct {
	first, next uint64
	seen        *[windowSize / 64]uint64 // bit n%windowSize; nil while all came in order
}

// accept reports an error for a token that may not come now.
func (w *window) accept(seq uint64, ordered bool) error {
	switch {
	case seq == w.next:
	case seq < w.first, seq < w.next && (ordered || w.has(seq)):
		return fmt.Errorf("token %d was replayed", seq-w.first)
	case ordered:
		return fmt.Errorf("token %d is missing", w.next-w.first)
	case seq < w.next && w.next-seq > windowSize:
		return fmt.Errorf("token %d is too old", seq-w.first)
	case seq > w.next && seq-w.next > maxJump:
		return fmt.Errorf("token %d is too far ahead", seq-w.first)
	}
	if seq == w.next && w.seen == nil {
		w.next++
		return nil
	}
	if w.seen == nil {
		w.seen = new([windowSize / 64]uint64)
		for i := range w.seen {
			w.seen[i] = ^uint64(0)
		}
	}
	if seq >= w.next && seq-w.next >= windowSize {
		*w.seen = [windowSize / 64]uint64{}
		w.next = seq
	}
	for ; w.next <= seq; w.next++ { // makes room
		w.seen[w.next%windowSize/64] &^= 1 << (w.next % 64)
	}
	w.seen[seq%windowSize/64] |= 1 << (seq % 64)
	return nil
}

// has reports whether a number below next, and not too old, has come.
func (w *window) has(seq uint64) bool {
	if w.seen == nil {
		return true
	}
	return w.next-seq <= windowSize && w.seen[seq%windowSize/64]&(1<<(seq%64)) != 0
}
