package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/argyle-socks/argyle/internal/netns"
	"github.com/argyle-socks/argyle/internal/seccomp"
)

// explainAll says which engine would be used and why, and what the others
// lack. Each is tried: it does all but run the program.
func (r *runner) explainAll(ctx context.Context, out io.Writer) error {
	if len(r.argv) == 0 {
		r.argv = []string{"true"} // which is not run
	}
	chosen := ""
	var text strings.Builder
	for _, e := range r.engines() {
		_, err := e.run(ctx, true)
		var usage *usageError
		switch {
		case errors.As(err, &usage):
			return err
		case err != nil:
			fmt.Fprintf(&text, "%-8s  no: %v\n", e.name, err)
		case chosen == "":
			chosen = e.name
			fmt.Fprintf(&text, "%-8s  yes, and it is used: %s\n", e.name, whatItDoes[e.name])
		default:
			fmt.Fprintf(&text, "%-8s  yes: %s\n", e.name, whatItDoes[e.name])
		}
	}
	if r.engine == engineAuto {
		fmt.Fprintf(&text, "%-8s  only with --engine env: %s\n", engineEnv, whatItDoes[engineEnv])
	}
	set := r.world.now.Load()
	fmt.Fprintf(out, "proxy     %s\n", set.ways[""])
	if n := len(set.file.Rules); n > 0 {
		fmt.Fprintf(out, "rules     %d, the first that matches decides\n", n)
	}
	fmt.Fprintf(out, "names     %s\n", r.explainNames())
	udp := "through the proxy, if it agrees when the first one comes"
	if !set.carriesUDP() {
		udp = "refused: this way has none"
	}
	fmt.Fprintf(out, "datagrams %s\n\nengines\n%s", udp, indent(text.String()))
	fmt.Fprintln(out, "\nwhat they need")
	for _, p := range netns.Prerequisites() {
		explainNeed(out, p.What, p.OK, p.Why, p.Mend)
	}
	for _, p := range seccomp.Prerequisites() {
		explainNeed(out, p.What, p.OK, p.Why, p.Mend)
	}
	if chosen == "" {
		return &exitError{code: exitNotStarted, err: errors.New("no engine can be used here")}
	}
	return nil
}

func explainNeed(out io.Writer, what string, ok bool, why, mend string) {
	if ok {
		fmt.Fprintf(out, "  ok       %s\n", what)
		return
	}
	fmt.Fprintf(out, "  missing  %s: %s\n           %s\n", what, why, mend)
}

// whatItDoes is a line about each engine.
var whatItDoes = map[string]string{
	engineNetns:   "a network namespace of its own, whose every packet the kernel hands to argyle (TPROXY)",
	engineTun:     "a network namespace of its own, whose every packet goes through a network stack of argyle's",
	engineSeccomp: "the kernel stops each connect until argyle has answered; for programs that do not try to get round it",
	engineEnv:     "ALL_PROXY and the like, which a program may heed or not",
}

func (r *runner) explainNames() string {
	switch r.dns {
	case dnsFake:
		v4, v6 := r.names.pool.Prefixes()
		return fmt.Sprintf("addresses that stand for them, of %v and %v; the proxy looks them up", v4, v6)
	case dnsProxy:
		return fmt.Sprintf("asked of %v through the proxy, over TCP", r.names.resolver.dest)
	}
	return "not looked after: queries are datagrams like others"
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ") + "\n"
}
