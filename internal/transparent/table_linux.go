package transparent

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// table is a table of nf_tables that lives as long as it is open.
type table struct {
	name  string
	conn  *nftables.Conn
	raw   *netlink.Conn // the same connection
	owned bool          // the kernel removes the table with the connection
}

// flagOwner is NFT_TABLE_F_OWNER.
const flagOwner = 2

// openTable makes a table, which is empty, with an owner if the kernel knows of
// those.
func openTable(name string) (*table, error) { return openTableWith(name, []uint32{flagOwner, 0}) }

// openTableWith makes a table with the first of flags that the kernel knows.
func openTableWith(name string, flags []uint32) (*table, error) {
	t := &table{name: name}
	var err error
	t.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		t.raw = c
		return nil
	}))
	if err != nil {
		return nil, err
	}
	for _, one := range flags {
		err = t.create(one)
		t.owned = one == flagOwner
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) { // older than Linux 5.12
			break
		}
	}
	if err != nil {
		_ = t.conn.CloseLasting() // there is an error already
		return nil, err
	}
	return t, nil
}

// create creates the table with flags, which the library cannot.
func (t *table) create(flags uint32) error {
	header := func(family byte, subsystem uint16) []byte {
		return []byte{family, unix.NFNETLINK_V0, byte(subsystem >> 8), byte(subsystem)} // struct nfgenmsg
	}
	attrs := netlink.NewAttributeEncoder()
	attrs.String(unix.NFTA_TABLE_NAME, t.name)
	attrs.Bytes(unix.NFTA_TABLE_FLAGS, []byte{byte(flags >> 24), byte(flags >> 16), byte(flags >> 8), byte(flags)})
	body, err := attrs.Encode()
	if err != nil {
		return err
	}
	edge := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   header(0, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	_, err = t.raw.SendMessages([]netlink.Message{edge(unix.NFNL_MSG_BATCH_BEGIN), {
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
			Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
		},
		Data: append(header(unix.NFPROTO_INET, 0), body...),
	}, edge(unix.NFNL_MSG_BATCH_END)})
	if err == nil {
		_, err = t.raw.Receive()
	}
	switch {
	case errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("there is a table inet %s, which is somebody else's: %w", t.name, err)
	case errors.Is(err, syscall.EPERM): // of one with an owner, or without the capability
		return fmt.Errorf("make the table inet %s, unless it is somebody else's: %w", t.name, err)
	}
	return err
}

// Close removes the table.
func (t *table) Close() error {
	if t.owned {
		return t.conn.CloseLasting()
	}
	t.conn.DelTable(&nftables.Table{Name: t.name, Family: nftables.TableFamilyINet})
	return errors.Join(t.conn.Flush(), t.conn.CloseLasting())
}

// maxElements is how many elements of a set fit into one message.
const maxElements = 1000

// addSets makes the sets of a builder, bit by bit: a message has an end, and so
// has the room for one batch.
func (t *table) addSets(b *builder) error {
	for _, s := range b.sets {
		if err := t.conn.AddSet(s.Set, nil); err != nil {
			return err
		}
		var all []nftables.SetElement
		for _, p := range s.prefixes {
			all = append(all, elements(p)...)
		}
		for some := range slices.Chunk(all, maxElements) {
			if err := t.conn.SetAddElements(s.Set, some); err != nil {
				return err
			}
			if err := t.conn.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
