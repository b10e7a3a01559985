package transparent

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// A part is one of those that a rule is made of: a match, or what to do. It is
// what the kernel reads and what nft(8) calls it, so that a plan says what is done.
type part struct {
	words string
	exprs []expr.Any
}

// compare compares what was loaded into the first register.
func compare(op expr.CmpOp, data ...byte) *expr.Cmp {
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}

// sign is how nft writes an operator.
func sign(op expr.CmpOp) string {
	if op == expr.CmpOpNeq {
		return "!= "
	}
	return ""
}

func meta(key expr.MetaKey) *expr.Meta { return &expr.Meta{Key: key, Register: 1} }

func native(value uint32) []byte { return binary.NativeEndian.AppendUint32(nil, value) }

// l4protos are the protocols that rules name.
var l4protos = map[byte]string{protoTCP: "tcp", protoUDP: "udp"}

func l4proto(proto byte, op expr.CmpOp) part {
	return part{
		"meta l4proto " + sign(op) + l4protos[proto],
		[]expr.Any{meta(expr.MetaKeyL4PROTO), compare(op, proto)},
	}
}

func nfproto(family byte) part {
	words := "meta nfproto ipv4"
	if family == unix.NFPROTO_IPV6 {
		words = "meta nfproto ipv6"
	}
	return part{words, []expr.Any{meta(expr.MetaKeyNFPROTO), compare(expr.CmpOpEq, family)}}
}

func mark(value uint32) part {
	return part{
		fmt.Sprintf("meta mark 0x%08x", value),
		[]expr.Any{meta(expr.MetaKeyMARK), compare(expr.CmpOpEq, native(value)...)},
	}
}

func setMark(value uint32) part {
	return part{fmt.Sprintf("meta mark set 0x%08x", value), []expr.Any{
		&expr.Immediate{Register: 1, Data: native(value)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}}
}

// sport and dport match the ports of TCP and UDP, which are in the same place.
func sport(port uint16) part {
	return part{fmt.Sprintf("th sport %d", port), transport(0, port, expr.CmpOpEq)}
}

func dport(port uint16) part {
	return part{fmt.Sprintf("th dport %d", port), transport(2, port, expr.CmpOpEq)}
}

// portOf matches the destination port of one protocol.
func portOf(proto byte, port uint16, op expr.CmpOp) part {
	return part{
		fmt.Sprintf("%s dport %s%d", l4protos[proto], sign(op), port),
		append(l4proto(proto, expr.CmpOpEq).exprs, transport(2, port, op)...),
	}
}

func transport(offset uint32, port uint16, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		compare(op, binary.BigEndian.AppendUint16(nil, port)...),
	}
}

// isSYN matches the packets of TCP that begin a connection, or the others.
func isSYN(op expr.CmpOp) part {
	words := "tcp flags & (fin | syn | rst | ack) == syn"
	if op == expr.CmpOpNeq {
		words = "tcp flags & (fin | syn | rst | ack) != syn"
	}
	return part{words, append(l4proto(protoTCP, expr.CmpOpEq).exprs,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{flagsMask}, Xor: []byte{0}},
		compare(op, flagsSYN),
	)}
}

// iifname matches the packets that come in by a link, or by any other.
func iifname(link string, op expr.CmpOp) part {
	var name [unix.IFNAMSIZ]byte
	copy(name[:], link)
	return part{
		fmt.Sprintf("iifname %s%q", sign(op), link),
		[]expr.Any{meta(expr.MetaKeyIIFNAME), compare(op, name[:]...)},
	}
}

// oifname matches the packets that leave by a link, or by any other.
func oifname(link string, op expr.CmpOp) part {
	p := iifname(link, op)
	p.words = "o" + p.words[1:]
	p.exprs[0] = meta(expr.MetaKeyOIFNAME)
	return p
}

// side is which address of a packet is meant.
type side int

const (
	saddr side = iota
	daddr
)

// address loads an address of a packet of one family.
func address(s side, v6 bool) part {
	p := part{words: "ip saddr "}
	offset, size := uint32(12), uint32(4)
	if v6 {
		p.words = "ip6 saddr "
		offset, size = 8, 16
	}
	if s == daddr {
		p.words = p.words[:len(p.words)-len("saddr ")] + "daddr "
		offset += size
	}
	family := byte(unix.NFPROTO_IPV4)
	if v6 {
		family = unix.NFPROTO_IPV6
	}
	p.exprs = append(nfproto(family).exprs,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
	return p
}

// addr matches the packets whose source or destination is in a prefix.
func addr(s side, p netip.Prefix) part {
	p = p.Masked()
	one := address(s, p.Addr().Is6())
	mask := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	size := uint32(len(mask))
	return part{one.words + prefixWords(p), append(one.exprs,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		compare(expr.CmpOpEq, p.Addr().AsSlice()...),
	)}
}

// prefixWords is how nft writes a prefix.
func prefixWords(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// addrIn matches the packets whose source or destination is in a set.
func addrIn(s side, set *nftables.Set) part {
	one := address(s, set.KeyType == nftables.TypeIP6Addr)
	return part{one.words + "@" + set.Name, append(one.exprs,
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID})}
}

func acceptPacket() part { return part{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}} }

func dropPacket() part { return part{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}} }

func returnPacket() part { return part{"return", []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}} }

func jumpTo(chain string) part {
	return part{"jump " + chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}

func gotoChain(chain string) part {
	return part{"goto " + chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}}
}

// rejectTCP is for TCP alone.
func rejectTCP() part {
	return part{"reject with tcp reset", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
}

// icmpWords are what nft calls the codes of NFT_REJECT_ICMPX_UNREACH.
var icmpWords = map[byte]string{
	unix.NFT_REJECT_ICMPX_NO_ROUTE:         "no-route",
	unix.NFT_REJECT_ICMPX_PORT_UNREACH:     "port-unreachable",
	unix.NFT_REJECT_ICMPX_HOST_UNREACH:     "host-unreachable",
	unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED: "admin-prohibited",
}

func reject(code byte) part {
	return part{"reject with icmpx " + icmpWords[code],
		[]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: code}}}
}

// tproxyTo gives a packet to the socket of a port, and goes no further in the
// rule if there is none.
func tproxyTo(family byte, port uint16) part {
	words := "tproxy ip to"
	if family == unix.NFPROTO_IPV6 {
		words = "tproxy ip6 to"
	}
	return part{fmt.Sprintf("%s :%d", words, port), []expr.Any{
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.TProxy{Family: family, TableFamily: byte(nftables.TableFamilyINet), RegPort: 1},
	}}
}

// redirectTo gives a connection another destination, a port of this host.
func redirectTo(port uint16) part {
	const specified = 2 // NF_NAT_RANGE_PROTO_SPECIFIED
	return part{fmt.Sprintf("redirect to :%d", port), []expr.Any{
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Redir{RegisterProtoMin: 1, Flags: specified},
	}}
}

// queueNative queues by nft_queue.
func queueNative(num uint16) part {
	return part{fmt.Sprintf("queue flags bypass to %d", num),
		[]expr.Any{&expr.Queue{Num: num, Total: 1, Flag: expr.QueueFlagBypass}}}
}

// queueCompat queues by xt_NFQUEUE, which nft_compat lends to nf_tables.
func queueCompat(num uint16) part {
	const bypass = 1                                   // NFQ_FLAG_BYPASS
	info := binary.NativeEndian.AppendUint16(nil, num) // struct xt_NFQ_info_v3
	info = binary.NativeEndian.AppendUint16(info, 1)   // queues_total
	info = binary.NativeEndian.AppendUint16(info, bypass)
	padded := xt.Unknown(append(info, 0, 0))
	return part{queueNative(num).words, []expr.Any{&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &padded}}}
}
