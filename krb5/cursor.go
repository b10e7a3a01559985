package krb5

import "encoding/binary"

// cursor reads the files of MIT's library, in which numbers are big-endian and
// lengths come before what they belong to. Once something is missing, all that
// is read is zero.
type cursor struct {
	b      []byte
	failed bool
}

// take returns the next n bytes, nil if there are not so many.
func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.b, c.failed = nil, true
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) uint8() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// data16 and data32 return bytes after a length of 16 and of 32 bits.
func (c *cursor) data16() []byte { return c.take(int(c.uint16())) }
func (c *cursor) data32() []byte { return c.take(int(c.uint32())) }

// more reports whether there is something left of a list of n.
func (c *cursor) more(i, n uint32) bool { return i < n && !c.failed }
