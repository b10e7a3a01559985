package transparent

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// builder adds rules to one table.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
}

// prerouting adds a chain that sees packets when they come in.
func (b *builder) prerouting(name string, priority nftables.ChainPriority) *nftables.Chain {
	return b.conn.AddChain(&nftables.Chain{
		Name: name, Table: b.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: &priority,
	})
}

// chain adds a chain that others jump to.
func (b *builder) chain(name string) *nftables.Chain {
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.table})
}

// rule adds a rule of parts: matches, and what to do.
func (b *builder) rule(c *nftables.Chain, parts ...[]expr.Any) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: slices.Concat(parts...)})
}

// compare compares what was loaded into the first register.
func compare(op expr.CmpOp, data ...byte) *expr.Cmp {
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}

func meta(key expr.MetaKey) *expr.Meta { return &expr.Meta{Key: key, Register: 1} }

func l4proto(proto byte, op expr.CmpOp) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyL4PROTO), compare(op, proto)}
}

func nfproto(family byte) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyNFPROTO), compare(expr.CmpOpEq, family)}
}

func mark(value uint32) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyMARK), compare(expr.CmpOpEq, binary.NativeEndian.AppendUint32(nil, value)...)}
}

// sport and dport match the ports of TCP and UDP, which are in the same place.
func sport(port uint16) []expr.Any { return transport(0, port) }
func dport(port uint16) []expr.Any { return transport(2, port) }

func transport(offset uint32, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		compare(expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, port)...),
	}
}

// not turns a match into its opposite.
func not(match []expr.Any) []expr.Any {
	match[len(match)-1].(*expr.Cmp).Op = expr.CmpOpNeq
	return match
}

func tcpFlags(mask, flags byte, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		compare(op, flags),
	}
}

// side is which address of a packet is meant.
type side int

const (
	saddr side = iota
	daddr
)

// addr matches the packets whose source or destination is in a prefix.
func addr(s side, p netip.Prefix) []expr.Any {
	ip := p.Masked().Addr()
	family, offset, size := byte(unix.NFPROTO_IPV4), 12, 4
	if ip.Is6() {
		family, offset, size = unix.NFPROTO_IPV6, 8, 16
	}
	if s == daddr {
		offset += size
	}
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(nfproto(family),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(offset), Len: uint32(size)},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(size), Mask: mask, Xor: make([]byte, size)},
		compare(expr.CmpOpEq, ip.AsSlice()...),
	)
}

func acceptPacket() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func jump(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func rejectWith(kind uint32, code byte) []expr.Any {
	return []expr.Any{&expr.Reject{Type: kind, Code: code}}
}

// tproxyTo gives a packet to the socket of a port, and goes no further in the
// rule if there is none.
func tproxyTo(family byte, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.TProxy{Family: family, TableFamily: byte(nftables.TableFamilyINet), RegPort: 1},
	}
}

// queueNative queues by nft_queue.
func queueNative(num uint16) []expr.Any {
	return []expr.Any{&expr.Queue{Num: num, Total: 1, Flag: expr.QueueFlagBypass}}
}

// queueCompat queues by xt_NFQUEUE, which nft_compat lends to nf_tables.
func queueCompat(num uint16) []expr.Any {
	const bypass = 1                                   // NFQ_FLAG_BYPASS
	info := binary.NativeEndian.AppendUint16(nil, num) // struct xt_NFQ_info_v3
	info = binary.NativeEndian.AppendUint16(info, 1)   // queues_total
	info = binary.NativeEndian.AppendUint16(info, bypass)
	padded := xt.Unknown(append(info, 0, 0))
	return []expr.Any{&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &padded}}
}
