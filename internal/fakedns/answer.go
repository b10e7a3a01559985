package fakedns

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	udpSize    = 1232 // bytes that a datagram is sure to bring (DNS flag day 2020)
)

// A question is one that has passed the checks.
type question struct {
	dns.Question        // as it was asked
	name         string // in lower case, without the final dot
	dnssec       bool   // DO
	unchecked    bool   // CD
	client       netip.Addr
}

// An answer is what a reply says beyond the question.
type answer struct {
	rcode  int
	answer []dns.RR
	ns     []dns.RR
	extra  []dns.RR
	why    error // of a failure
}

// Answer returns the reply to a query, nil if there is to be none. tcp says
// that the reply may be as long as it likes. It may be called from several
// goroutines, and takes as long as Exchange does, but no longer than five
// seconds.
func (s *Server) Answer(ctx context.Context, client netip.AddrPort, query []byte, tcp bool) []byte {
	s.init()
	if len(query) < headerSize || query[2]&0x80 != 0 {
		return nil // not a query: two servers could answer each other for ever
	}
	if rcode := headerFault(query); rcode != dns.RcodeSuccess {
		return headerReply(query, rcode)
	}
	q := new(dns.Msg)
	if q.Unpack(query) != nil || len(q.Question) != 1 {
		return headerReply(query, dns.RcodeFormatError)
	}
	if s.Forward != nil && s.allowed(client.Addr()) {
		if reply, ok := s.Forward(ctx, bareName(q.Question[0].Name), query, tcp); ok {
			return reply
		}
	}
	opt, options := findOPT(q)
	a := s.consider(ctx, client.Addr(), q, opt, options)
	if a.why != nil {
		s.Log.Debug("dns question failed", "client", client, "name", q.Question[0].Name,
			"type", dns.Type(q.Question[0].Qtype), "err", a.why)
	}
	return s.pack(q, opt, a, tcp)
}

// headerFault looks at what can be told from a header.
func headerFault(query []byte) int {
	count := func(section int) uint16 { return binary.BigEndian.Uint16(query[4+2*section:]) }
	switch {
	case query[2]>>3&0xf != dns.OpcodeQuery:
		return dns.RcodeNotImplemented
	case count(0) != 1, count(1) != 0, count(2) > 1, count(3) > 2:
		return dns.RcodeFormatError // IXFR has an authority, TSIG is additional
	}
	return dns.RcodeSuccess
}

// headerReply is for queries that cannot be read.
func headerReply(query []byte, rcode int) []byte {
	b := make([]byte, headerSize)
	copy(b, query[:2])
	b[2] = 0x80 | query[2]&0x79 // QR; the opcode and RD as they were
	b[3] = 0x80 | byte(rcode)   // RA
	return b
}

// findOPT returns the pseudo-record of EDNS, and how many there are.
func findOPT(q *dns.Msg) (opt *dns.OPT, n int) {
	for _, rr := range q.Extra {
		if one, ok := rr.(*dns.OPT); ok {
			opt = one
			n++
		}
	}
	return opt, n
}

// consider refuses what is not ours to answer.
func (s *Server) consider(ctx context.Context, client netip.Addr, q *dns.Msg, opt *dns.OPT, options int) answer {
	asked := q.Question[0]
	switch {
	case !s.allowed(client):
		return answer{rcode: dns.RcodeRefused}
	case options > 1, opt != nil && opt.Hdr.Name != ".":
		return answer{rcode: dns.RcodeFormatError} // RFC 6891, section 6.1.1
	case opt != nil && opt.Version() != 0:
		return answer{rcode: dns.RcodeBadVers}
	case asked.Qclass != dns.ClassINET, asked.Qtype == dns.TypeAXFR, asked.Qtype == dns.TypeIXFR:
		return answer{rcode: dns.RcodeRefused}
	case isMeta(asked.Qtype):
		return answer{rcode: dns.RcodeNotImplemented}
	}
	return s.resolve(ctx, question{
		Question:  asked,
		name:      bareName(asked.Name),
		dnssec:    opt != nil && opt.Do(),
		unchecked: q.CheckingDisabled,
		client:    plain(client),
	})
}

// bareName is a name in lower case, without the final dot.
func bareName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// isMeta reports whether a type is none of data, but for ANY (RFC 6895,
// section 3.1).
func isMeta(qtype uint16) bool {
	return qtype == 0 || qtype == dns.TypeOPT || 128 <= qtype && qtype < dns.TypeANY
}

// pack makes a reply of an answer, cut to the size that the client can take.
func (s *Server) pack(q *dns.Msg, opt *dns.OPT, a answer, tcp bool) []byte {
	reply := new(dns.Msg).SetReply(q)
	reply.RecursionAvailable = true
	reply.Rcode = a.rcode
	reply.Answer, reply.Ns, reply.Extra = a.answer, a.ns, a.extra
	size := dns.MinMsgSize
	if opt != nil {
		size = min(max(size, int(opt.UDPSize())), udpSize)
		reply.Extra = append(reply.Extra[:len(reply.Extra):len(reply.Extra)], replyOPT(opt, a))
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	reply.Truncate(size)
	reply.Compress = true
	b, err := reply.Pack()
	if err != nil || len(b) > size {
		short := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
		if b, err = short.Pack(); err != nil {
			return nil
		}
	}
	return b
}

// replyOPT answers EDNS with EDNS. Cookies and other options are not for us.
func replyOPT(opt *dns.OPT, a answer) *dns.OPT {
	own := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	own.SetUDPSize(udpSize)
	own.SetDo(opt.Do())
	if a.why != nil {
		own.Option = append(own.Option, explain(a.why))
	}
	return own
}

// explain says why something failed (RFC 8914), but not by which proxy.
func explain(err error) *dns.EDNS0_EDE {
	for _, own := range []error{ErrFull, errBusy, errNoExchange} {
		if errors.Is(err, own) {
			return &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeOther, ExtraText: own.Error()}
		}
	}
	return &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNetworkError}
}

func success(rrs ...dns.RR) answer { return answer{answer: rrs} }

func nxdomain() answer { return answer{rcode: dns.RcodeNameError} }

func failure(err error) answer { return answer{rcode: dns.RcodeServerFailure, why: err} }
