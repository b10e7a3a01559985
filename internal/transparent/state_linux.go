package transparent

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// toUnicast matches destinations that are one host, and not this one. Where
// there is no route, IPv6 says so instead.
func toUnicast() part { return toType(unix.RTN_UNICAST, "unicast") }

func toUnreachable() part { return toType(unix.RTN_UNREACHABLE, "unreachable") }

func toLocal() part { return toType(unix.RTN_LOCAL, "local") }

func toType(kind uint32, words string) part {
	return part{"fib daddr type " + words, []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		compare(expr.CmpOpEq, native(kind)...),
	}}
}

// isReply matches what answers another host's packets.
func isReply() part {
	return part{"ct direction reply", []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION}, compare(expr.CmpOpEq, 1),
	}}
}

// isNew matches the first packet of a connection that conntrack(8) sees.
func isNew() part {
	return part{"ct state new", []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(expr.CtStateBitNEW), Xor: native(0)},
		compare(expr.CmpOpNeq, native(0)...),
	}}
}

func connMark(value uint32) part {
	return part{fmt.Sprintf("ct mark 0x%08x", value), []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeyMARK}, compare(expr.CmpOpEq, native(value)...),
	}}
}

func setConnMark(value uint32) part {
	return part{fmt.Sprintf("ct mark set 0x%08x", value), []expr.Any{
		&expr.Immediate{Register: 1, Data: native(value)},
		&expr.Ct{Register: 1, SourceRegister: true, Key: expr.CtKeyMARK},
	}}
}

// ofUser and ofGroup match what a program's socket has sent, by whose it is.
func ofUser(uid uint32) part {
	return part{fmt.Sprintf("meta skuid %d", uid),
		[]expr.Any{meta(expr.MetaKeySKUID), compare(expr.CmpOpEq, native(uid)...)}}
}

func ofGroup(gid uint32) part {
	return part{fmt.Sprintf("meta skgid %d", gid),
		[]expr.Any{meta(expr.MetaKeySKGID), compare(expr.CmpOpEq, native(gid)...)}}
}

// ofCgroup matches what a program in a control group, or in one below, has sent.
func ofCgroup(g cgroup) part {
	return part{fmt.Sprintf("socket cgroupv2 level %d %q", g.level, g.path), []expr.Any{
		&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: g.level, Register: 1},
		compare(expr.CmpOpEq, binary.NativeEndian.AppendUint64(nil, g.id)...),
	}}
}
