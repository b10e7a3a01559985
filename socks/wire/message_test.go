package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// message is what every message of this package can do.
type message interface {
	Append(b []byte) ([]byte, error)
}

// parser is the Parse function of a message.
type parser[M message] func(b []byte) (M, int, error)

// sample is a message as bytes and what it means.
type sample[M message] struct {
	name     string
	hex      string // white space does not count
	want     M
	readOnly bool // nobody writes it like this, but it is read
}

// refusal is what begins no message: it is refused with its last byte, not
// before.
type refusal struct {
	name string
	hex  string
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

// text is s in hexadecimal, for names and passwords inside a sample.
func text(s string) string { return hex.EncodeToString([]byte(s)) }

// testSamples checks what samples mean, that they are written as they are read,
// and the laws of Parse for each.
func testSamples[M message](t *testing.T, parse parser[M], samples []sample[M]) {
	t.Helper()
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			b := unhex(t, s.hex)
			m, n, err := parse(b)
			if err != nil || n != len(b) || !reflect.DeepEqual(m, s.want) {
				t.Fatalf("parsed as %+v, %d, %v; want %+v, %d", m, n, err, s.want, len(b))
			}
			checkLaws(t, parse, b)
			checkLaws(t, parse, append(bytes.Clone(b), 0, 1, 2, 3)) // what follows is not its business
			if !s.readOnly {
				checkWritten(t, s.want, b)
			}
			clear(b)
			if !reflect.DeepEqual(m, s.want) {
				t.Errorf("the message changed with the buffer: %+v", m)
			}
		})
	}
}

// checkWritten checks that m is written as want, behind what is there already.
func checkWritten[M message](t *testing.T, m M, want []byte) {
	t.Helper()
	const before = "before"
	got, err := m.Append([]byte(before))
	if err != nil || string(got) != before+string(want) {
		t.Errorf("%+v is written as %x, %v; want %x", m, bytes.TrimPrefix(got, []byte(before)), err, want)
	}
}

// testRefusals checks that what begins no message is refused as soon as that
// can be known.
func testRefusals[M message](t *testing.T, parse parser[M], refusals []refusal) {
	t.Helper()
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			b := unhex(t, r.hex)
			if _, _, err := parse(b); !errors.Is(err, ErrMessage) {
				t.Errorf("%x: error %v, want ErrMessage", b, err)
			}
			if _, n, err := parse(b[:len(b)-1]); err != ErrShort {
				t.Errorf("%x: %d, error %v, want ErrShort", b[:len(b)-1], n, err)
			}
			checkLaws(t, parse, append(b, make([]byte, 600)...))
		})
	}
}

// testUnwritable checks that a message without a form on the wire is refused
// and leaves nothing of itself behind.
func testUnwritable[M message](t *testing.T, messages map[string]M) {
	t.Helper()
	for name, m := range messages {
		t.Run(name, func(t *testing.T) {
			const before = "before"
			got, err := m.Append([]byte(before))
			if !errors.Is(err, ErrMessage) {
				t.Errorf("error %v, want ErrMessage", err)
			}
			if string(got) != before {
				t.Errorf("%q was left of %q", got, before)
			}
		})
	}
}

// longest is more than any message has.
const longest = 600

// checkLaws checks what every Parse function promises for any bytes. As they
// come in one by one it says ErrShort, and then for good either the message or
// that there is none.
func checkLaws[M message](t *testing.T, parse parser[M], b []byte) {
	t.Helper()
	if len(b) > longest {
		b = b[:longest]
	}
	m, whole, final := parse(b)
	for have := range len(b) {
		early, n, err := parse(b[:have:have])
		switch {
		case err == ErrShort && n <= have:
			t.Fatalf("%x: has %d bytes and wants %d", b[:have], have, n)
		case err == ErrShort && final == nil && n > whole:
			t.Fatalf("%x: wants %d bytes of a message of %d", b[:have], n, whole)
		case err == ErrShort && final == nil && have >= whole:
			t.Fatalf("%x: short, but the message has %d bytes", b[:have], whole)
		case err == nil && (final != nil || n != whole || !reflect.DeepEqual(early, m)):
			t.Fatalf("%x: %+v, %d; with more bytes %+v, %d, %v", b[:have], early, n, m, whole, final)
		case err != nil && err != ErrShort && !errors.Is(err, ErrMessage):
			t.Fatalf("%x: error %v is neither ErrShort nor ErrMessage", b[:have], err)
		case err != nil && err != ErrShort && !errors.Is(final, ErrMessage):
			t.Fatalf("%x: refused with %v, but with more bytes %v", b[:have], err, final)
		}
	}
	switch {
	case final == nil && (whole <= 0 || whole > len(b)):
		t.Fatalf("%x: a message of %d bytes", b, whole)
	case final == nil:
		checkStable(t, parse, m)
	case final == ErrShort:
		checkReader(t, parse, b)
	case !errors.Is(final, ErrMessage):
		t.Fatalf("%x: error %v is neither ErrShort nor ErrMessage", b, final)
	}
}

// checkStable checks that what was read can be written, and is then always
// read and written the same way. Names without bytes are read, never written,
// and names in a Response become zeros.
func checkStable[M message](t *testing.T, parse parser[M], m M) {
	t.Helper()
	b, err := m.Append(nil)
	if err != nil {
		if !errors.Is(err, ErrMessage) || !strings.HasSuffix(err.Error(), "no address") {
			t.Fatalf("write %+v: %v", m, err)
		}
		return
	}
	again, n, err := parse(b)
	if err != nil || n != len(b) {
		t.Fatalf("%+v was written as %x, which is %d, %v", m, b, n, err)
	}
	if r, ok := any(m).(Response); (!ok || r.Bound.IP.IsValid()) && !reflect.DeepEqual(again, m) {
		t.Fatalf("%+v was written as %x, which is %+v", m, b, again)
	}
	if c, err := again.Append(nil); err != nil || !bytes.Equal(b, c) {
		t.Fatalf("%+v was written as %x and then as %x, %v", m, b, c, err)
	}
}

// checkReader reads as package socks does, what Parse asks for and no more:
// it ends with a message, of which nothing is missing and behind which nothing
// has been read.
func checkReader[M message](t *testing.T, parse parser[M], b []byte) {
	t.Helper()
	b = bytes.Clone(b)
	for {
		_, n, err := parse(b)
		switch {
		case err == nil && n == len(b):
			return
		case err == nil:
			t.Fatalf("%x: %d bytes were read for a message of %d", b, len(b), n)
		case err != ErrShort:
			t.Fatalf("%x: begins no message (%v), but was called short before", b, err)
		case n <= len(b) || n > longest:
			t.Fatalf("%x: has %d bytes and wants %d", b, len(b), n)
		}
		for len(b) < n {
			b = append(b, likely(parse, len(b)))
		}
	}
}

// likely returns a byte that may stand at position i of any message of its
// kind: found by trial for the first, 1 for what may be ATYP, else 0.
func likely[M message](parse parser[M], i int) byte {
	switch i {
	case 0:
		for first := range 256 {
			if _, _, err := parse([]byte{byte(first)}); err == ErrShort {
				return byte(first)
			}
		}
	case 3:
		return atypIPv4
	}
	return 0
}

// fuzz looks for bytes that break the laws of Parse, beginning with seeds.
func fuzz[M message](f *testing.F, parse parser[M], samples []sample[M], refusals []refusal) {
	for _, s := range samples {
		f.Add(unhex(f, s.hex))
	}
	for _, r := range refusals {
		f.Add(unhex(f, r.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkLaws(t, parse, b) })
}

// benchmark measures Parse, and Append into a buffer that is there.
func benchmark[M message](b *testing.B, parse parser[M], hex string) {
	in := unhex(b, hex)
	m, _, err := parse(in)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _, _ = parse(in)
		}
	})
	b.Run("append", func(b *testing.B) {
		out := make([]byte, 0, longest)
		b.ReportAllocs()
		for b.Loop() {
			_, _ = m.Append(out)
		}
	})
}
