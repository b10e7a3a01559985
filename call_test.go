package argyle

import (
	"context"
	"errors"
	"testing"
)

func TestCommandString(t *testing.T) {
	for command, want := range map[Command]string{
		Connect: "connect", Bind: "bind", Associate: "udp", 0: "command 0x00", 0xf1: "command 0xf1",
	} {
		if got := command.String(); got != want {
			t.Errorf("CMD %d is %q, want %q", command, got, want)
		}
	}
}

func TestHandlerFunc(t *testing.T) {
	type key struct{}
	var got any
	var handler Handler = HandlerFunc(func(ctx context.Context, _ Call) { got = ctx.Value(key{}) })
	handler.ServeCall(context.WithValue(t.Context(), key{}, "this one"), nil)
	if got != "this one" {
		t.Errorf("the function was called with %v", got)
	}
}

// What a protocol lacks says so.
func TestUnsupported(t *testing.T) {
	var c ConnectOnly
	_, _, bind := c.AcceptBind(t.Context(), nil)
	_, associate := c.AcceptPacket()
	var s StreamOnly
	_, listen := s.Listen(t.Context(), "tcp", "192.0.2.1:80")
	_, listenPacket := s.ListenPacket(t.Context(), "udp", "")
	for _, err := range []error{bind, associate, listen, listenPacket} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("error %v, want errors.ErrUnsupported", err)
		}
	}
}
