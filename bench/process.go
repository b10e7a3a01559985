//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A process is a server program that bench has started, in a process group of its own: an interrupt from the
// terminal reaches only bench, which then stops what it started.
type process struct {
	path   string
	args   []string
	env    []string
	port   uint16      // where it listens when it is ready
	ready  func() bool // in place of port: whether it is
	in     *namespace  // nil: that of bench
	cmd    *exec.Cmd
	exited chan struct{}
}

// start runs the program until it is ready.
func (p *process) start() error { return p.in.do(p.launch) }

// launch runs the program where it is called. What it says goes nowhere: writing a log would count as its work.
func (p *process) launch() error {
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, p.env...) // no ALL_PROXY, no ssh agent
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.exited = make(chan struct{})
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait()
	}()
	for giveUp := time.Now().Add(2 * patience); time.Now().Before(giveUp); {
		if p.isReady() {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended: %s", p, p.cmd.ProcessState)
		case <-time.After(20 * time.Millisecond):
		}
	}
	p.stop()
	return fmt.Errorf("%s does not get ready", p)
}

func (p *process) isReady() bool {
	if p.ready != nil {
		return p.ready()
	}
	sockets, err := listenInodes(p.port)
	return err == nil && len(sockets) > 0
}

// String is the command line, to try by hand what did not work.
func (p *process) String() string { return p.path + " " + strings.Join(p.args, " ") }

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process, and its descendants even if they have left its group, as those of sshd do.
func (p *process) stop() {
	if p.exited == nil {
		return
	}
	descendants, _ := processTree([]int{p.pid()}) // an error: it has ended already
	_ = syscall.Kill(-p.pid(), syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(2 * time.Second):
	}
	kill(descendants)
	<-p.exited
	p.exited = nil
}

// kill ends processes for good and waits until they are gone. One whose start differs has only inherited the id.
func kill(processes []procStat) {
	for giveUp := time.Now().Add(patience); time.Now().Before(giveUp); pause(5 * time.Millisecond) {
		alive := false
		for _, p := range processes {
			if now, err := readStat(p.pid); err == nil && now.start == p.start {
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
				alive = true
			}
		}
		if !alive {
			return
		}
	}
}

// restart stops and starts the processes that bench runs for the server; it leaves any other server alone.
func (s *server) restart() error {
	s.stop()
	return s.start()
}

func (s *server) start() error {
	if len(s.processes) == 0 {
		return nil
	}
	s.pids = nil
	for _, p := range s.processes {
		if err := p.start(); err != nil {
			return err
		}
		s.pids = append(s.pids, p.pid())
	}
	return nil
}

// stop ends the last process first: it is a client of those before it.
func (s *server) stop() {
	for i := len(s.processes) - 1; i >= 0; i-- {
		s.processes[i].stop()
	}
}
