//go:build !linux

package relay

import "net"

// pump is what a system adds to a direction: nothing here.
type pump struct{}

func (h *half) copy() error { return h.copyBuffer() }

// gone would tell whether the other side has broken off.
func gone(net.Conn) bool { return false }

// flush would wait until what was written has gone.
func flush(net.Conn) {}

func flushed(net.Conn) bool { return true }

// looped is a Pair's place in an event loop, of which there are none here.
type looped struct{}

func (looped) on() bool { return false }

func (p *Pair) startLoop() bool { return false }
func (p *Pair) inLoop(f func()) { f() }
func (p *Pair) quit()           {}
