// Package wire holds the messages of SOCKS 4, 4a and 5 as bytes: for each a
// struct, an Append method and a Parse function. It does no I/O.
//
// A Parse function returns the message and its length. On [ErrShort] the length
// is what it needs to get further: never more than the whole message has, so
// that a reader who reads exactly that much reads nothing of what follows.
//
//	b, err := wire.Request{Command: argyle.Connect, Dest: dest}.Append(nil)
//	req, n, err := wire.ParseRequest(b)
//
// The messages are those of RFC 1928 (SOCKS 5), RFC 1929 (username/password)
// and of the SOCKS 4 and 4a memos. SOCKS 4 messages end in 4: [Request4].
package wire
