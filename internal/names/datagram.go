package names

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/miekg/dns"
)

const (
	resendAfter = 700 * time.Millisecond // as datagrams get lost
	maxDatagram = 4096                   // more than we ask for; some do not listen
)

// sendDatagram asks over UDP, from a port of the question's own.
func (m *remote) sendDatagram(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	query.Id = dns.Id()
	packed, err := query.Pack()
	if err != nil {
		return nil, err
	}
	conn, err := m.dial(ctx, "udp", m.server.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	buffer := make([]byte, maxDatagram)
	for {
		if _, err = conn.Write(packed); err == nil {
			conn.SetReadDeadline(time.Now().Add(resendAfter))
			var msg *dns.Msg
			if msg, err = readDatagram(conn, buffer, query); err == nil {
				return msg, nil
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
	}
}

// readDatagram reads until the answer comes. What is not an answer to the
// query may be forged, so it ends nothing.
func readDatagram(conn net.Conn, buffer []byte, query *dns.Msg) (*dns.Msg, error) {
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, err
		}
		msg := new(dns.Msg)
		if msg.Unpack(buffer[:n]) == nil && answers(msg, query) {
			return msg, nil
		}
	}
}
