package transparent

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// controlMessage is one as the kernel writes it.
func controlMessage(level, kind int, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	if unix.SizeofPtr == 4 {
		binary.NativeEndian.PutUint32(b, uint32(unix.CmsgLen(len(data))))
	} else {
		binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	}
	binary.NativeEndian.PutUint32(b[unix.SizeofCmsghdr-8:], uint32(level))
	binary.NativeEndian.PutUint32(b[unix.SizeofCmsghdr-4:], uint32(kind))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

func sockaddr4() []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	return append(b, 0x13, 0x88, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0)
}

func sockaddr6() []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
	b = append(b, 0x13, 0x88, 0, 0, 0, 0, 0x20, 0x01, 0x0d, 0xb8)
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0)
}

func TestParseControl(t *testing.T) {
	v4 := controlMessage(unix.SOL_IP, unix.IP_ORIGDSTADDR, sockaddr4())
	v6 := controlMessage(unix.SOL_IPV6, unix.IPV6_ORIGDSTADDR, sockaddr6())
	other := controlMessage(unix.SOL_SOCKET, unix.SO_TIMESTAMP, make([]byte, 13))
	for name, test := range map[string]struct {
		b    []byte
		want string
	}{
		"IPv4":          {v4, "192.0.2.1:5000"},
		"IPv6":          {v6, "[2001:db8::1]:5000"},
		"after another": {append(other, v6...), "[2001:db8::1]:5000"},
	} {
		if got, ok := parseControl(test.b); !ok || got.String() != test.want {
			t.Errorf("%s: %v, %v", name, got, ok)
		}
	}
	for name, b := range map[string][]byte{
		"nothing":        {},
		"another":        other,
		"a short one":    v4[:len(v4)-9],
		"a short length": controlMessage(unix.SOL_IP, unix.IP_ORIGDSTADDR, sockaddr4()[:7]),
		"another family": controlMessage(unix.SOL_IP, unix.IP_ORIGDSTADDR, make([]byte, 16)),
		"no data":        controlMessage(unix.SOL_IPV6, unix.IPV6_ORIGDSTADDR, nil),
		"length zero":    make([]byte, 64),
	} {
		if got, ok := parseControl(b); ok {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzControl(f *testing.F) {
	f.Add(controlMessage(unix.SOL_IP, unix.IP_ORIGDSTADDR, sockaddr4()))
	f.Add(append(controlMessage(unix.SOL_SOCKET, unix.SO_TIMESTAMP, make([]byte, 13)),
		controlMessage(unix.SOL_IPV6, unix.IPV6_ORIGDSTADDR, sockaddr6())...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if dest, ok := parseControl(b); ok && !dest.IsValid() {
			t.Fatalf("destination %v", dest)
		}
	})
}
