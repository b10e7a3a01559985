package seccomp

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzControl sees that ancillary data of a program, which may be anything, stays what it was but for the source.
func FuzzControl(f *testing.F) {
	ttl := cmsg(unix.IPPROTO_IP, unix.IP_TTL, 64, 0, 0, 0)
	segment := cmsg(unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0, 5)
	source := cmsg(unix.IPPROTO_IP, unix.IP_PKTINFO, 2, 0, 0, 0, 192, 0, 2, 1, 0, 0, 0, 0)
	source6 := cmsg(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, make([]byte, 20)...)
	f.Add(bytes.Join([][]byte{ttl, source, segment, source6}, nil))
	f.Add([]byte{})
	f.Add(ttl[:3])
	f.Fuzz(func(t *testing.T, control []byte) {
		kept, err := withoutSource(control)
		if err != nil {
			return
		}
		all, err := unix.ParseSocketControlMessage(kept)
		if err != nil {
			t.Fatalf("what is kept of %x cannot be read: %x: %v", control, kept, err)
		}
		before, err := unix.ParseSocketControlMessage(control)
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for _, one := range before {
			level, kind := one.Header.Level, one.Header.Type
			if level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO || level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO {
				continue
			}
			if i >= len(all) || all[i].Header.Type != kind || !bytes.Equal(all[i].Data, one.Data) {
				t.Fatalf("of %x message %d of %d is lost: %x", control, i, len(before), kept)
			}
			i++
		}
		if i != len(all) {
			t.Fatalf("%d messages are kept of %x, want %d", len(all), control, i)
		}
	})
}

// cmsg makes a message of ancillary data.
func cmsg(level, kind uint32, data ...byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[8:], level)
	binary.NativeEndian.PutUint32(b[12:], kind)
	copy(b[unix.CmsgLen(0):], data)
	return b
}
