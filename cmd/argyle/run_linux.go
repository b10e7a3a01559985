package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/fakedns"
	"github.com/argyle-socks/argyle/internal/hostnet"
	"github.com/argyle-socks/argyle/internal/netns"
	"github.com/argyle-socks/argyle/internal/process"
	"github.com/argyle-socks/argyle/internal/seccomp"
)

// runner runs one program.
type runner struct {
	capture
	*runFlags
	argv      []string
	published []portForward
	hostPorts []portForward
}

// becomeChild is for main: a process that an engine has made of ourselves does
// its part there, and does not return.
func becomeChild() {
	seccomp.Child()
	hostnet.Child()
	if netns.IsChild() {
		netns.RunChild(prepareNamespace)
	}
}

// runProgram runs the program and returns how it ended as an error.
func runProgram(ctx context.Context, common *commonFlags, f *runFlags, argv []string) error {
	if err := f.check(); err != nil {
		return err
	}
	log, err := runLogger(common)
	if err != nil {
		return err
	}
	file, err := f.file(common)
	if err != nil {
		return notStarted(err)
	}
	r := &runner{capture: capture{log: log, world: newWorld(log)}, runFlags: f, argv: argv}
	if r.published, r.hostPorts, err = f.parseForwards(); err != nil {
		return err
	}
	if f.engine == engineEnv && !f.explain {
		return f.runEnv(file, argv)
	}
	// The program asks anew for what it has not used for an hour.
	if err := r.open(file, &f.captureFlags, fakedns.Options{Share: -1, Hold: time.Hour}); err != nil {
		return notStarted(err)
	}
	defer r.close()
	if f.explain {
		return r.explainAll(ctx, os.Stdout)
	}
	status, err := r.run(ctx)
	if err != nil {
		return err
	}
	return &exitError{code: status.Code, exit: status.Exit}
}

// notStarted gives an error that is no wrong command line a status that is none of
// the program's.
func notStarted(err error) error {
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		return err
	}
	return &exitError{code: exitNotStarted, err: err}
}

// An engine is a way to take a program's connections.
type engine struct {
	name string
	run  func(ctx context.Context, try bool) (process.Status, error)
}

// engines returns those to be tried, the best one first.
func (r *runner) engines() []engine {
	all := []engine{
		{engineNetns, func(ctx context.Context, try bool) (process.Status, error) { return r.lookupspace(ctx, false, try) }},
		{engineTun, func(ctx context.Context, try bool) (process.Status, error) { return r.lookupspace(ctx, true, try) }},
		{engineSeccomp, r.runSeccomp},
	}
	if r.engine == engineAuto {
		return all
	}
	for _, e := range all {
		if e.name == r.engine {
			return []engine{e}
		}
	}
	return nil
}

// run runs the program by the first engine that this system has.
func (r *runner) run(ctx context.Context) (process.Status, error) {
	var missing []error
	for _, e := range r.engines() {
		r.log.Debug("engine", "name", e.name)
		status, err := e.run(ctx, false)
		var lacks *lacksError
		if errors.As(err, &lacks) {
			r.log.Info("engine cannot be used", "name", e.name, "err", err)
			missing = append(missing, fmt.Errorf("engine %s: %w", e.name, err))
			continue
		}
		return status, exitWith(err)
	}
	return process.Status{}, &exitError{code: exitNotStarted, err: cannotRun(missing)}
}

// cannotRun says why no engine does, on one line each: what would mend it is
// there.
func cannotRun(missing []error) error {
	if len(missing) == 1 {
		return missing[0]
	}
	var b strings.Builder
	b.WriteString("nothing here can hold the program (argyle run --explain says more)")
	for _, err := range missing {
		fmt.Fprintf(&b, "; %v", err)
	}
	return errors.New(b.String())
}

// lacksError is an engine that this system cannot have.
type lacksError struct{ err error }

func (e *lacksError) Error() string { return e.err.Error() }
func (e *lacksError) Unwrap() error { return e.err }

// exitWith gives an error of starting a program the exit status that it stands
// for.
func exitWith(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code: process.ExitCode(err), err: err}
}

// runEnv becomes the program, with variables that tell it of the proxy.
func (f *runFlags) runEnv(file *config.File, argv []string) error {
	if len(file.Proxy) != 1 || len(f.deny)+len(f.direct)+len(f.publish)+len(f.hostPort) > 0 {
		return usagef("--engine env: a program can be told of one proxy, and of nothing else")
	}
	fmt.Fprintln(os.Stderr, "argyle: --engine env is advice: what does not heed ALL_PROXY goes past the proxy")
	path, err := process.Find(argv[0], os.Environ())
	if err != nil {
		return exitWith(err)
	}
	env := append(plainEnviron(), proxyEnviron(string(file.Proxy[0]))...)
	if v := firstEnv("NO_PROXY", "no_proxy"); v != "" {
		env = append(env, "NO_PROXY="+v, "no_proxy="+v)
	}
	return exitWith(&fs.PathError{Op: "exec", Path: path, Err: syscall.Exec(path, argv, env)})
}
