package krb5

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/quick"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

func TestWrap(t *testing.T) {
	for _, e := range enctypes {
		initiator, acceptor := pairOf(e)
		check := func(msg []byte, conf, back bool) bool {
			from, to := initiator, acceptor
			if back {
				from, to = acceptor, initiator
			}
			token, err := from.Wrap([]byte("before"), msg, conf)
			if err != nil || !bytes.HasPrefix(token, []byte("before")) {
				t.Fatal(err)
			}
			token = token[len("before"):]
			if len(token)-len(msg) > MaxOverhead {
				t.Errorf("%s: %d bytes longer, want %d at most", e.name, len(token)-len(msg), MaxOverhead)
			}
			if conf && len(msg) > 8 && bytes.Contains(token, msg) {
				t.Errorf("%s: the message can be read", e.name)
			}
			rotate(token, len(msg)%50)
			got, wasConf, err := to.Unwrap(token, true)
			return err == nil && bytes.Equal(got, msg) && wasConf == conf
		}
		if err := quick.Check(check, nil); err != nil {
			t.Errorf("%s: %v", e.name, err)
		}
	}
}

// TestRotation has tokens of every length rotated by what MIT and Windows do:
// by trailer, by fillers and trailer, by more than there is, by anything
// (RFC 4121, section 4.2.5).
func TestRotation(t *testing.T) {
	for _, e := range enctypes {
		for size := range 40 {
			msg := bytes.Repeat([]byte("m"), size)
			for _, conf := range []bool{false, true} {
				initiator, acceptor := pairOf(e)
				for _, n := range []int{0, 1, e.macSize, 28, 44, headerSize + e.macSize, 2*headerSize + e.macSize, 255, 256, 1000, 65535} {
					for _, ends := range [][2]*Context{{initiator, acceptor}, {acceptor, initiator}} {
						token, err := ends[0].Wrap(nil, msg, conf)
						if err != nil {
							t.Fatal(err)
						}
						rotate(token, n)
						if got, _, err := ends[1].Unwrap(token, true); err != nil || !bytes.Equal(got, msg) {
							t.Fatalf("%s, conf %v, %d bytes rotated by %d: %q, %v", e.name, conf, size, n, got, err)
						}
					}
				}
			}
		}
	}
}

// TestTooShort has tokens with too little in them for any message, whatever they say of their rotation.
func TestTooShort(t *testing.T) {
	for _, conf := range []bool{false, true} {
		initiator, acceptor := pairOf(enctypes[1])
		token, err := initiator.Wrap(nil, nil, conf)
		if err != nil {
			t.Fatal(err)
		}
		for n := headerSize; n < len(token); n++ {
			short := bytes.Clone(token[:n])
			copy(short[6:], []byte{0, 28})
			if _, _, err := acceptor.Unwrap(short, true); !matches(fmt.Sprintf("token of %d bytes, want %d or more: too short", n, len(token)), err) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	}
}

// rotate rotates a Wrap token as Windows does (RFC 4121, section 4.2.5).
func rotate(token []byte, n int) {
	body := token[headerSize:]
	token[6], token[7] = byte(n>>8), byte(n)
	n %= len(body)
	copy(body, append(bytes.Clone(body[len(body)-n:]), body[:len(body)-n]...))
}

// TestFillers has what Windows puts before the inner header.
func TestFillers(t *testing.T) {
	initiator, acceptor := pairOf(enctypes[1])
	s := &initiator.mine
	if err := s.needSeals(); err != nil {
		t.Fatal(err)
	}
	h := header{id: tokenWrap, flags: s.flags | sealed, extra: 16, seq: s.seq}.bytes()
	token := s.seals.seal(bytes.Clone(h[:]), []byte("message"), make([]byte, 16), h[:])
	rotate(token, 28)
	if got, conf, err := acceptor.Unwrap(token, true); string(got) != "message" || !conf || err != nil {
		t.Errorf("%q, %v, %v", got, conf, err)
	}
}

func TestMIC(t *testing.T) {
	for _, e := range enctypes {
		initiator, acceptor := pairOf(e)
		mic, err := acceptor.MIC(nil, []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		if err := initiator.VerifyMIC([]byte("massage"), mic, true); err == nil {
			t.Errorf("%s: another message has the same MIC", e.name)
		}
		if err := initiator.VerifyMIC([]byte("message"), mic, true); err != nil {
			t.Errorf("%s: %v", e.name, err)
		}
		if err := initiator.VerifyMIC([]byte("message"), mic, false); !matches("token 0 was replayed", err) {
			t.Errorf("%s: the second time: %v", e.name, err)
		}
		if err := initiator.VerifyMIC([]byte("message"), mic[:5], false); err == nil {
			t.Error("a short MIC is good")
		}
	}
}

// TestTampering flips every bit of tokens, and cuts them short.
func TestTampering(t *testing.T) {
	for _, e := range enctypes {
		for _, conf := range []bool{false, true} {
			initiator, acceptor := pairOf(e)
			token, err := initiator.Wrap(nil, []byte("transfer 100"), conf)
			if err != nil {
				t.Fatal(err)
			}
			for bit := range len(token) * 8 {
				b := bytes.Clone(token)
				b[bit/8] ^= 1 << (bit % 8)
				if msg, _, err := acceptor.Unwrap(b, false); err == nil {
					t.Errorf("%s, conf %v: bit %d flipped: %q", e.name, conf, bit, msg)
				}
			}
			for n := range token {
				if _, _, err := acceptor.Unwrap(bytes.Clone(token[:n]), false); err == nil {
					t.Errorf("%s, conf %v: cut to %d bytes", e.name, conf, n)
				}
			}
			if _, _, err := initiator.Unwrap(bytes.Clone(token), false); !matches("sent back to where it came from", err) {
				t.Errorf("reflected: %v", err)
			}
			if _, _, err := acceptor.Unwrap(token, true); err != nil {
				t.Errorf("the token itself: %v", err)
			}
		}
	}
}

func TestOrder(t *testing.T) {
	for _, test := range []struct {
		ordered bool
		numbers string // of the tokens, as they come
		want    string // of the last
	}{
		{true, "0 1 2", ""},
		{true, "0 1 1", "token 1 was replayed"},
		{true, "0 2", "token 1 is missing"},
		{true, "0 1 0", "token 0 was replayed"},
		{false, "0 2 1", ""},
		{false, "0 2 1 1", "token 1 was replayed"},
		{false, "5 4 3 3", "token 3 was replayed"},
		{false, "1 1", "token 1 was replayed"},
		{false, "1000 1 1024 999", ""},
		{false, "1000 1025 1", "token 1 is too old"},
		{false, "1000 3000 2500", ""},
		{false, "1000 3000 2500 2500", "token 2500 was replayed"},
		{false, "1000 3000 1976", "token 1976 is too old"},
		{false, "0 1 2 3 2", "token 2 was replayed"},
		{false, "3000000 2999999 2999999", "token 2999999 was replayed"},
	} {
		var w window
		w.first, w.next = 77, 77
		var err error
		for _, s := range strings.Fields(test.numbers) {
			var n uint64
			fmt.Sscan(s, &n)
			if err != nil {
				t.Errorf("%s: %v before its end", test.numbers, err)
			}
			err = w.accept(77+n, test.ordered)
		}
		if test.want == "" && err != nil || test.want != "" && !matches(test.want, err) {
			t.Errorf("%s: %v, want %q", test.numbers, err, test.want)
		}
	}
	w := window{first: 77, next: 77}
	for _, n := range []uint64{0, 76, 77 + maxJump + 1, 1<<64 - 1} {
		if err := w.accept(n, false); err == nil {
			t.Errorf("%d was accepted", n)
		}
	}
}

// TestInitiate has both ends of ours, and every bit of the answer flipped.
func TestInitiate(t *testing.T) {
	for _, e := range enctypes {
		session := e.newKey()
		c, auth, reply := begun(t, session)
		for bit := range len(reply) * 8 {
			b := bytes.Clone(reply)
			b[bit/8] ^= 1 << (bit % 8)
			other := *auth
			err := func() error {
				_, err := guarded(func(token []byte) ([]byte, error) { return nil, finish(new(Context), token, session, &other) }, b)
				return err
			}()
			if err == nil {
				t.Errorf("%s: bit %d of byte %d flipped: accepted", e.name, bit%8, bit/8)
			}
		}
		if err := finish(c, reply, session, auth); err != nil {
			t.Errorf("%s: %v", e.name, err)
		}
		auth.Cusec++
		if err := finish(c, reply, session, auth); !matches("to another request", err) {
			t.Errorf("%s: %v", e.name, err)
		}
	}
}

// begun is an initiator's context with an acceptor's answer.
func begun(t *testing.T, session types.EncryptionKey) (*Context, *types.Authenticator, []byte) {
	t.Helper()
	auth := newAuthenticator(who{types.PrincipalName{NameString: []string{"alice"}}, "EXAMPLE.TEST"})
	e, err := checkKey(session)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := apReply(session, &auth, e.newKey(), 5)
	if err != nil {
		t.Fatal(err)
	}
	return new(Context), &auth, reply
}

func matches(pattern string, err error) bool {
	return err != nil && regexp.MustCompile(pattern).MatchString(err.Error())
}

func TestCachePath(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("primary", "tktABC\n")
	for name, want := range map[string]string{
		"/tmp/x": "/tmp/x", "FILE:/tmp/x": "/tmp/x", "/a:b": "/a:b",
		"DIR:" + dir: dir + "/tktABC", "DIR::" + dir + "/tkt2": dir + "/tkt2", "DIR:" + dir + "/none": dir + "/none/tkt",
	} {
		if got, err := cachePath(name); got != want || err != nil {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	write("primary", "../../etc/passwd\n")
	if _, err := cachePath("DIR:" + dir); !matches("names .* which is no cache", err) {
		t.Error(err)
	}
	if _, err := cachePath("KEYRING:persistent:0"); !matches("type KEYRING are not supported: .*KRB5CCNAME=FILE:", err) {
		t.Error(err)
	}
}

func FuzzUnwrap(f *testing.F) {
	for _, e := range enctypes {
		initiator, _ := pairOf(e)
		for _, conf := range []bool{false, true} {
			token, err := initiator.Wrap(nil, []byte("message"), conf)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(token)
		}
		mic, _ := initiator.MIC(nil, []byte("message"))
		f.Add(mic)
	}
	f.Fuzz(func(t *testing.T, token []byte) {
		for _, e := range enctypes {
			_, acceptor := pairOf(e)
			if msg, _, err := acceptor.Unwrap(bytes.Clone(token), true); err == nil {
				t.Errorf("%x is a token of %q", token, msg)
			}
			if acceptor.VerifyMIC(nil, token, true) == nil {
				t.Errorf("%x is a MIC", token)
			}
		}
	})
}

func FuzzFinish(f *testing.F) {
	session := enctypes[0].newKey()
	auth := newAuthenticator(who{types.PrincipalName{NameString: []string{"alice"}}, "EXAMPLE.TEST"})
	reply, err := apReply(session, &auth, session, 5)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(reply)
	f.Fuzz(func(t *testing.T, token []byte) {
		_, _ = guarded(func(token []byte) ([]byte, error) { return nil, finish(new(Context), token, session, &auth) }, token)
	})
}

func FuzzFiles(f *testing.F) {
	f.Add([]byte("\x05\x02\x00\x00\x00\x10"))
	f.Add([]byte("\x05\x04\x00\x0c\x00\x01\x00\x08\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parseKeytab(b)
		_, _ = parseCache(b)
	})
}

func TestCheckPath(t *testing.T) {
	for _, test := range []struct {
		flag      int
		crealm    string
		transited string
		want      string
	}{
		{-1, "A", "", ""},
		{7, "A", "", "of ann@A is postdated"},
		{-1, "B", "", ""},
		{-1, "B", "X,Y", `of ann@B has come through the realms "X,Y"`},
		{12, "B", "X,Y", ""},
		{-1, "A", "X", ""},
	} {
		part := &messages.EncTicketPart{Flags: types.NewKrbFlags(), CRealm: test.crealm}
		part.CName.NameString = []string{"ann"}
		part.Transited.Contents = []byte(test.transited)
		if test.flag >= 0 {
			types.SetFlag(&part.Flags, test.flag)
		}
		if err := checkPath(part, "A"); test.want == "" && err != nil || test.want != "" && !matches(test.want, err) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
