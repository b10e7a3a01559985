package fakedns

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// cleanse takes out of a resolver's reply what would let a program go to an
// address that we have not given it. The additional section, which is there to
// save questions, is left out.
func cleanse(reply *dns.Msg, asked dns.Question, udp bool) (result, error) {
	switch {
	case reply == nil || !reply.Response || len(reply.Question) != 1:
		return result{}, errors.New("the resolver's reply is none")
	case !strings.EqualFold(reply.Question[0].Name, asked.Name), reply.Question[0].Qtype != asked.Qtype:
		return result{}, errors.New("the resolver's reply is to another question")
	case reply.Truncated:
		return result{}, errors.New("the resolver's reply is truncated")
	case reply.Rcode != dns.RcodeSuccess && reply.Rcode != dns.RcodeNameError:
		return result{}, fmt.Errorf("the resolver says %s", dns.RcodeToString[reply.Rcode])
	}
	r := result{rcode: reply.Rcode, answer: clean(reply.Answer, udp), ns: clean(reply.Ns, udp)}
	r.address = slices.ContainsFunc(reply.Answer, func(rr dns.RR) bool {
		return rr != nil && rr.Header().Rrtype == asked.Qtype
	})
	r.ttl = time.Duration(keepFor(reply)) * time.Second
	for _, rr := range slices.Concat(r.answer, r.ns) {
		r.size += dns.Len(rr)
	}
	return r, nil
}

// keepFor is how many seconds a reply is good for (RFC 2308, section 5).
func keepFor(reply *dns.Msg) uint32 {
	ttl := uint32(maxKeptTTL)
	for _, rr := range reply.Answer {
		if rr != nil {
			ttl = min(ttl, rr.Header().Ttl)
		}
	}
	if len(reply.Answer) > 0 {
		return max(ttl, failureTTL)
	}
	for _, rr := range reply.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return max(min(ttl, soa.Hdr.Ttl, soa.Minttl), failureTTL)
		}
	}
	return failureTTL
}

// clean returns copies of the records that may pass.
func clean(rrs []dns.RR, udp bool) []dns.RR {
	var kept []dns.RR
	for _, rr := range rrs {
		if rr == nil || rr.Header().Class != dns.ClassINET {
			continue
		}
		rr = dns.Copy(rr)
		rr.Header().Ttl = min(rr.Header().Ttl, maxTTL)
		switch rr := rr.(type) {
		case *dns.A, *dns.AAAA, *dns.OPT, *dns.TSIG, *dns.SIG:
			continue
		case *dns.RRSIG:
			switch rr.TypeCovered {
			case dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB:
				continue // it would not match
			}
		case *dns.HTTPS:
			if !cleanService(&rr.SVCB, udp) {
				continue
			}
		case *dns.SVCB:
			if !cleanService(rr, udp) {
				continue
			}
		}
		kept = append(kept, rr)
	}
	return kept
}

// cleanService takes out of a service binding (RFC 9460) its addresses, and
// HTTP/3 if there is no UDP. It reports false if nothing is left of it.
func cleanService(rr *dns.SVCB, udp bool) bool {
	var gone []dns.SVCBKey
	noDefault := slices.ContainsFunc(rr.Value, func(v dns.SVCBKeyValue) bool {
		return v.Key() == dns.SVCB_NO_DEFAULT_ALPN
	})
	rr.Value = slices.DeleteFunc(rr.Value, func(v dns.SVCBKeyValue) bool {
		switch v := v.(type) {
		case *dns.SVCBIPv4Hint, *dns.SVCBIPv6Hint:
		case *dns.SVCBAlpn:
			if !udp {
				v.Alpn = slices.DeleteFunc(v.Alpn, func(id string) bool { return id == "h3" || strings.HasPrefix(id, "h3-") })
			}
			if len(v.Alpn) > 0 {
				return false
			}
		default:
			return false
		}
		gone = append(gone, v.Key())
		return true
	})
	if noDefault && slices.Contains(gone, dns.SVCB_ALPN) {
		return false // it spoke HTTP/3 only
	}
	rr.Value = slices.DeleteFunc(rr.Value, func(v dns.SVCBKeyValue) bool {
		mandatory, ok := v.(*dns.SVCBMandatory)
		if !ok {
			return false
		}
		mandatory.Code = slices.DeleteFunc(mandatory.Code, func(k dns.SVCBKey) bool { return slices.Contains(gone, k) })
		return len(mandatory.Code) == 0
	})
	return true
}
