package policy

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// zone answers look-ups in memory. Each value is what a name has to say, look-up by look-up, and then from the
// beginning again: "1.1.1.1 ::1 | 127.0.0.1".
type zone struct {
	names map[string]string

	mu    sync.Mutex
	asked map[dnsmessage.Question]int
}

// resolver asks the zone and nobody else.
func resolver(t *testing.T, names map[string]string) *net.Resolver {
	z := &zone{names: names, asked: make(map[dnsmessage.Question]int)}
	var servers sync.WaitGroup
	t.Cleanup(servers.Wait)
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		servers.Go(func() { z.serve(theirs) })
		return ours, nil
	}}
}

// serve answers one client, whose messages have a length before them, as over TCP.
func (z *zone) serve(conn net.Conn) {
	defer conn.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		answer := z.answer(query)
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

func (z *zone) answer(query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		panic(err)
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	q := m.Questions[0]
	ips, found := z.turn(q)
	if !found {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, ip := range ips {
		var body dnsmessage.ResourceBody
		switch {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			body = &dnsmessage.AResource{A: ip.As4()}
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			body = &dnsmessage.AAAAResource{AAAA: ip.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET},
			Body:   body,
		})
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// turn returns what a name has to say this time.
func (z *zone) turn(q dnsmessage.Question) (ips []netip.Addr, found bool) {
	text, found := z.names[strings.TrimSuffix(q.Name.String(), ".")]
	z.mu.Lock()
	n := z.asked[q]
	z.asked[q]++
	z.mu.Unlock()
	turns := strings.Split(text, "|")
	for ip := range strings.FieldsSeq(turns[n%len(turns)]) {
		ips = append(ips, netip.MustParseAddr(ip))
	}
	return ips, found
}
