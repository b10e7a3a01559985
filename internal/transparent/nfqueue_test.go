package transparent

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// IPv4 and IPv6 SYNs, as they are on the wire.
const (
	syn4 = "45 00 00 3c 1c 46 40 00 40 06 00 00 0a005501 c0000201" +
		"c350 0050 11223344 00000000 a0 02 ffff 0000 0000 020405b4 0402080a 00000000 00000000 01030307"
	syn4options = "46 00 00 2c 1c 46 40 00 40 06 00 00 0a005501 c0000201 01010100" +
		"c350 0050 11223344 00000000 50 02 ffff 0000 0000"
	syn6 = "60 00 00 00 00 14 06 40 fd008500 00000000 00000000 00000001 20010db8 00000000 00000000 00000001" +
		"c350 01bb 99887766 00000000 50 02 ffff 0000 0000"
)

func TestParseSYN(t *testing.T) {
	for name, test := range map[string]struct {
		packet, client, dest string
		seq                  uint32
	}{
		"IPv4":              {syn4, "10.0.85.1:50000", "192.0.2.1:80", 0x11223344},
		"IPv4 with options": {syn4options, "10.0.85.1:50000", "192.0.2.1:80", 0x11223344},
		"IPv6":              {syn6, "[fd00:8500::1]:50000", "[2001:db8::1]:443", 0x99887766},
	} {
		p, ok := parseSYN(unhex(t, test.packet))
		if !ok || p.client.String() != test.client || p.dest.String() != test.dest || p.seq != test.seq {
			t.Errorf("%s: %v, %v", name, p, ok)
		}
	}
}

func TestParseSYNRefuses(t *testing.T) {
	change := func(s string, at int, to byte) []byte {
		b := unhex(t, s)
		b[at] = to
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":              {},
		"another version":      change(syn4, 0, 0x55),
		"a short header":       change(syn4, 0, 0x44),
		"UDP":                  change(syn4, 9, 17),
		"a later fragment":     change(syn4, 7, 1),
		"SYN and ACK":          change(syn4, 33, 0x12),
		"no SYN":               change(syn4, 33, 0x10),
		"an extension header":  change(syn6, 6, 0),
		"a longer header":      change(syn4, 0, 0x4f),
		"IPv6 without payload": unhex(t, syn6)[:40],
	} {
		if p, ok := parseSYN(b); ok {
			t.Errorf("%s: %v", name, p)
		}
	}
	for _, s := range []string{syn4, syn6} {
		b := unhex(t, s)
		header := 20
		if b[0]>>4 == 6 {
			header = 40
		}
		for n := range header + tcpHeader {
			if _, ok := parseSYN(b[:n]); ok {
				t.Errorf("%d bytes of %d are a SYN", n, len(b))
			}
		}
	}
}

// queuedMessage is a message as the kernel sends it.
func queuedMessage(num uint16, id uint32, packet []byte) []byte {
	b := appendHeader(nil, msgPacket, 0, num)
	b = appendAttr(b, attrPacketHdr, 7)
	b = binary.BigEndian.AppendUint32(b, id)
	b = append(b, 8, 0, 0, 0) // protocol, hook, padding
	b = appendAttr(b, attrPayload, len(packet))
	return finish(append(b, packet...), 0)
}

func TestQueued(t *testing.T) {
	packet := []byte("five!")
	b := append(queuedMessage(7, 0x01020304, packet), queuedMessage(8, 2, nil)...)
	kind, body, rest, ok := nextMessage(b)
	if !ok || kind != msgPacket {
		t.Fatalf("message %#x, %v", kind, ok)
	}
	if q, ok := parseQueued(body); !ok || q.queue != 7 || q.id != 0x01020304 || string(q.packet[:5]) != "five!" {
		t.Errorf("%+v, %v", q, ok)
	}
	kind, body, rest, ok = nextMessage(rest)
	if q, whole := parseQueued(body); !ok || kind != msgPacket || !whole || q.queue != 8 || q.id != 2 || len(rest) != 0 {
		t.Errorf("%+v, %v, %d bytes left", q, ok, len(rest))
	}
	for n := range len(b) {
		for part := b[:n]; ; {
			kind, body, rest, ok := nextMessage(part)
			if !ok {
				break
			}
			if q, ok := parseQueued(body); kind != msgPacket || !ok || q.queue != 7 {
				t.Errorf("%d bytes: %+v", n, q)
			}
			part = rest
		}
	}
}

func TestVerdictMessage(t *testing.T) {
	for _, v := range []verdict{accept(), drop(), rejectBy(markHostUnreachable)} {
		b := appendVerdict(nil, 7, 0x01020304, v)
		kind, body, rest, ok := nextMessage(b)
		if !ok || kind != msgVerdict || len(rest) != 0 {
			t.Fatalf("message %#x, %v", kind, ok)
		}
		want := binary.BigEndian.AppendUint32(nil, v.code)
		want = append(want, 1, 2, 3, 4)
		if got := body[familySize+attrSize:]; string(got[:8]) != string(want) || binary.BigEndian.Uint16(body[2:]) != 7 {
			t.Errorf("%+v: % x", v, body)
		}
		hasMark := len(body) > familySize+attrSize+8
		if hasMark != (v.mark != 0) || hasMark && binary.BigEndian.Uint32(body[len(body)-4:]) != v.mark {
			t.Errorf("%+v: % x", v, body)
		}
	}
}

func FuzzQueue(f *testing.F) {
	f.Add(queuedMessage(7, 1, unhex(f, syn4)))
	f.Add(append(queuedMessage(7, 1, unhex(f, syn6)), queuedMessage(7, 2, nil)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for {
			_, body, rest, ok := nextMessage(b)
			if !ok {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("it does not end")
			}
			b = rest
			q, ok := parseQueued(body)
			if !ok {
				continue
			}
			if p, ok := parseSYN(q.packet); ok && (!p.client.Addr().IsValid() || p.dest.Addr().Is4In6()) {
				t.Fatalf("SYN %v", p)
			}
		}
	})
}

func FuzzSYN(f *testing.F) {
	for _, s := range []string{syn4, syn4options, syn6} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parseSYN(b); ok && (p.client == netip.AddrPort{} || p.dest == netip.AddrPort{}) {
			t.Fatalf("SYN %v", p)
		}
	})
}
