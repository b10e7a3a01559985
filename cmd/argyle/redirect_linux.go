package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	osuser "os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/fakedns"
	"github.com/argyle-socks/argyle/internal/hostnet"
	"github.com/argyle-socks/argyle/internal/transparent"
)

// nameRedirect is what rules, logs and the record of changes call redirect.
const nameRedirect = "redirect"

// redirector takes connections.
type redirector struct {
	capture
	interception
	to, except targets
	all        bool // names get addresses of the pool where to has none
}

// runRedirect takes connections until it is told to end.
func runRedirect(ctx context.Context, common *commonFlags, f *redirectFlags) error {
	if f.cleanup {
		return cleanUp(nameRedirect)
	}
	if err := f.check(); err != nil {
		return err
	}
	r, err := f.redirector()
	if err != nil {
		return err
	}
	if f.plan {
		return r.printPlan()
	}
	if err := mayIntercept(nameRedirect); err != nil {
		return err
	}
	if r.log, err = common.logger(os.Stderr); err != nil {
		return err
	}
	file, err := f.file(common)
	if err != nil {
		return err
	}
	return r.run(ctx, file, &f.captureFlags)
}

// redirector returns one that does what the flags say.
func (f *redirectFlags) redirector() (r *redirector, err error) {
	r = &redirector{interception: interception{slot: slotRedirect, inbound: nameRedirect, redirect: f.method == methodRedirect}}
	if r.to, err = parseTargets("--to", f.to); err != nil {
		return nil, err
	}
	if r.except, err = parseTargets("--except", f.except); err != nil {
		return nil, err
	}
	r.DNS = f.names || len(r.to.names) > 0
	if len(r.except.names) > 0 && !r.DNS {
		return nil, usagef("--except %s: only names that are looked up here are known: add --dns", r.except.names[0])
	}
	r.all = len(r.to.names) == 0
	f.dns = dnsOff
	if r.DNS {
		f.dns = dnsFake
	}
	r.To, r.Except = r.to.prefixes, r.except.prefixes
	if err := f.clients(&r.HostRules); err != nil {
		return nil, err
	}
	return r, nil
}

// clients says whose connections are taken.
func (f *redirectFlags) clients(rules *transparent.HostRules) error {
	rules.Local = f.local || len(f.from) == 0
	for _, value := range f.from {
		if prefix, err := netip.ParsePrefix(value); err == nil {
			rules.From = append(rules.From, prefix.Masked())
			continue
		}
		if ip, err := netip.ParseAddr(value); err == nil {
			rules.From = append(rules.From, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		link, err := net.InterfaceByName(value)
		if err != nil || link.Flags&net.FlagLoopback != 0 {
			return usagef("--from %q: want a network such as 192.0.2.0/24, or an interface that clients come in by", value)
		}
		rules.FromLinks = append(rules.FromLinks, value)
	}
	for _, value := range f.uids {
		id, err := numberOf(value, func() (string, error) {
			u, err := osuser.Lookup(value)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
		if err != nil {
			return usagef("--uid %q: want a user's name or number: %w", value, err)
		}
		rules.UIDs = append(rules.UIDs, id)
	}
	for _, value := range f.gids {
		id, err := numberOf(value, func() (string, error) {
			g, err := osuser.LookupGroup(value)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
		if err != nil {
			return usagef("--gid %q: want a group's name or number: %w", value, err)
		}
		rules.GIDs = append(rules.GIDs, id)
	}
	rules.Cgroups = f.cgroups
	return nil
}

// numberOf reads the number of a user or group, or finds it by the name.
func numberOf(value string, lookup func() (string, error)) (uint32, error) {
	id, err := strconv.ParseUint(value, 10, 32)
	if err == nil {
		return uint32(id), nil
	}
	text, err := lookup()
	if err != nil {
		return 0, err
	}
	id, err = strconv.ParseUint(text, 10, 32)
	return uint32(id), err
}

// run takes connections until it is told to end.
func (r *redirector) run(ctx context.Context, file *config.File, f *captureFlags) (err error) {
	if err := ownMarkOnly(file, nameRedirect); err != nil {
		return err
	}
	r.world = newWorld(r.log)
	own := r.markSockets(file)
	if err := r.open(file, f, r.poolOptions()); err != nil {
		return err
	}
	if r.DNS {
		r.answerNames(own)
	}
	defer func() {
		r.close()
		r.remove() // after the sessions, which need the rules
	}()
	r.catch()
	changes, err := hostnet.Open(nameRedirect)
	if err != nil {
		return err
	}
	if err := r.intercept(changes, &r.interception); err != nil {
		return errors.Join(err, changes.Close())
	}
	r.log.Info("redirecting", "method", r.method(), "dns", r.DNS, "pools", fmt.Sprint(r.Pools), "held", r.Hold)
	err = r.serve(ctx)
	r.close()
	r.remove()
	return errors.Join(err, changes.Close())
}

// ownMarkOnly is an error if a way out has a mark of its own: ours is what keeps its
// connections from coming back here.
func ownMarkOnly(file *config.File, command string) error {
	for name, u := range file.Upstreams {
		if u.Direct != nil && u.Direct.Mark != 0 {
			return file.Errorf("upstreams."+name+".direct.mark", "argyle %s needs the mark of its sockets for itself", command)
		}
	}
	return nil
}

func (r *redirector) method() string {
	if r.redirect {
		return methodRedirect
	}
	return methodTPROXY
}

// poolOptions are those of the addresses that stand for names: the same ones
// whenever this host starts.
func (r *redirector) poolOptions() (o fakedns.Options) {
	if len(r.From)+len(r.FromLinks) == 0 {
		o.Share = -1 // one client is all there is
	}
	o.Key = hostKey(nameRedirect)
	return o
}

// hostKey is a key for the addresses of names that is the same whenever this host
// starts; nil if it has nothing that stays the same.
func hostKey(command string) []byte {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(id) == 0 {
		return nil
	}
	key := sha256.Sum256(append([]byte("argyle "+command+" "), id...))
	return key[:]
}

// pools returns those of a pool that this host can have.
func poolsHere(pool *fakedns.Pool) []netip.Prefix {
	v4, v6 := pool.Prefixes()
	if !hasIPv6() {
		return []netip.Prefix{v4}
	}
	return []netip.Prefix{v4, v6}
}

// printPlan says what would be changed.
func (r *redirector) printPlan() error {
	if r.DNS {
		pool, err := fakedns.Open(r.poolOptions())
		if err != nil {
			return err
		}
		defer pool.Close()
		r.Pools = poolsHere(pool)
	}
	plan, err := r.interception.plan()
	if err != nil {
		return err
	}
	_, err = fmt.Print(plan)
	return err
}

// cleanUp takes back what a killed run has left.
func cleanUp(name string) error {
	if err := mayIntercept(name); err != nil {
		return err
	}
	n, err := hostnet.Cleanup(name)
	if errors.Is(err, hostnet.ErrRunning) {
		return fmt.Errorf("%w: nothing of it is left over", err)
	}
	if err != nil {
		return err
	}
	if n == 0 {
		fmt.Println("nothing is left over")
		return nil
	}
	fmt.Printf("taken back: %d changes\n", n)
	return nil
}

// mayIntercept is an error without the right to change this host's routing.
func mayIntercept(command string) error {
	if !hasCapability(unix.CAP_NET_ADMIN) || !hasCapability(unix.CAP_NET_RAW) {
		return fmt.Errorf("%s changes routing and firewall, which takes root, or CAP_NET_ADMIN and CAP_NET_RAW", command)
	}
	return nil
}

// hasCapability reports whether we have one, such as unix.CAP_NET_ADMIN.
func hasCapability(number int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<number) != 0
}
