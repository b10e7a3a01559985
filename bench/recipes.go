//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// argyle builds our own program, and runs it as `argyle serve`.
func (st *starter) argyle(ctx context.Context) ([]*server, error) {
	program, users := filepath.Join(st.dir, "argyle"), filepath.Join(st.dir, "users")
	build := []string{"build", "-o", program}
	var env []string
	if st.profile != "" {
		build = append(build, "-tags", "profile")
		env = append(env, "ARGYLE_PROFILE="+st.profile)
	}
	if err := command(ctx, "", "go", append(build, "github.com/argyle-socks/argyle/cmd/argyle")...); err != nil {
		return nil, err
	}
	if err := command(ctx, twinPassword+"\n", program, "passwd", users, twinUser); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	twinPort, err := freePort()
	if err != nil {
		return nil, err
	}
	plain := []string{"serve", "-l", loopback(port).String()}
	twin := []string{"serve", "-l", loopback(twinPort).String(), "--users", users}
	servers := []*server{
		newServer("argyle", &process{path: program, args: plain, port: port, env: env}),
		newServer("argyle", &process{path: program, args: twin, port: twinPort, env: env}).withPassword(),
	}
	for _, n := range strings.FieldsFunc(st.procs, func(r rune) bool { return r == ',' }) {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		servers = append(servers, newServer("argyle, GOMAXPROCS="+n, &process{
			path: program, args: []string{"serve", "-l", loopback(port).String()}, port: port, env: append(env, "GOMAXPROCS="+n),
		}))
	}
	return servers, nil
}

func (st *starter) microsocks(context.Context) ([]*server, error) {
	program, err := lookPath("microsocks")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	twinPort, err := freePort()
	if err != nil {
		return nil, err
	}
	plain := []string{"-i", "127.0.0.1", "-p", strconv.Itoa(int(port))}
	twin := []string{"-i", "127.0.0.1", "-p", strconv.Itoa(int(twinPort)), "-u", twinUser, "-P", twinPassword}
	return []*server{
		newServer("microsocks", &process{path: program, args: plain, port: port}),
		newServer("microsocks", &process{path: program, args: twin, port: twinPort}).withPassword(),
	}, nil
}

// dantedConf allows everything and logs nothing.
const dantedConf = `errorlog: /dev/null
logoutput: /dev/null
internal: 127.0.0.1 port = %d
external: lo
clientmethod: none
socksmethod: none
%sclient pass {
  from: 127.0.0.0/8 to: 0.0.0.0/0
}
socks pass {
  from: 0.0.0.0/0 to: 0.0.0.0/0
}
`

// danted has no twin with a password: its users are those of the system.
func (st *starter) danted(context.Context) ([]*server, error) {
	program, err := lookPath("danted")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	accounts := ""
	if os.Geteuid() == 0 {
		accounts = "user.privileged: root\nuser.unprivileged: nobody\n"
	}
	conf, err := st.writeFile("danted.conf", fmt.Sprintf(dantedConf, port, accounts))
	if err != nil {
		return nil, err
	}
	args := []string{"-f", conf, "-p", filepath.Join(st.dir, "danted.pid")}
	return []*server{newServer("danted", &process{path: program, args: args, port: port})}, nil
}

// sshdConf lets in the one key.
const sshdConf = `Port %d
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
`

// ssh runs `ssh -D` and an sshd of its own for it to log in to. Both together are the server.
func (st *starter) ssh(ctx context.Context) ([]*server, error) {
	sshd, err := lookPath("sshd") // by its whole path, or it refuses to run
	if err != nil {
		return nil, err
	}
	ssh, err := lookPath("ssh")
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	hostKey, userKey := filepath.Join(st.dir, "hostkey"), filepath.Join(st.dir, "userkey")
	for _, key := range []string{hostKey, userKey} {
		if err := command(ctx, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); err != nil {
			return nil, err
		}
	}
	sshdPort, err := freePort()
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	conf, err := st.writeFile("sshd_config", fmt.Sprintf(sshdConf, sshdPort, hostKey, userKey+".pub"))
	if err != nil {
		return nil, err
	}
	return []*server{newServer("ssh -D",
		sshdProcess(sshd, conf, sshdPort),
		&process{path: ssh, args: []string{
			"-F", "none", "-N", "-D", loopback(port).String(), "-p", strconv.Itoa(int(sshdPort)), "-l", me.Username,
			"-i", userKey, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "127.0.0.1",
		}, port: port},
	)}, nil
}

// sshdProcess runs sshd. As root it insists on an empty /run/sshd, which its service makes; where that has never run,
// it gets one in a mount namespace of its own, and the machine stays as it is.
func sshdProcess(sshd, conf string, port uint16) *process {
	p := &process{path: sshd, args: []string{"-D", "-f", conf}, port: port}
	if _, err := os.Stat("/run/sshd"); os.Geteuid() != 0 || err == nil {
		return p
	}
	const script = `mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec "$@"`
	p.path, p.args = "unshare", append([]string{"-m", "sh", "-c", script, "sh", sshd}, p.args...)
	return p
}

func (st *starter) writeFile(name, text string) (string, error) {
	path := filepath.Join(st.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// command runs a program to its end, and returns what it said if it failed.
func command(ctx context.Context, stdin, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}
