//go:build linux

package hostnet

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// keeperName is the argv[0] by which the program knows that it was started as
// the keeper.
const keeperName = "argyle-keeper"

// The files of the keeper: it waits for the end of the first.
const (
	keeperPipe   = 3
	keeperRecord = 4
)

// keeper is the process that sets things right when we have no time to.
type keeper struct {
	cmd  *exec.Cmd
	life *os.File // its end tells the keeper of ours
}

// startKeeper starts the keeper of a record.
func startKeeper(record *os.File) (*keeper, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{keeperName, record.Name()}
	cmd.ExtraFiles = []*os.File{r, record}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is not for it
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start the keeper of changes: %w", err)
	}
	return &keeper{cmd, w}, nil
}

// end lets the keeper do its work, and waits for that.
func (k *keeper) end() error {
	k.life.Close()
	return k.cmd.Wait()
}

// Child must be called first thing in main. If this process is a keeper, it does
// not return.
func Child() {
	if len(os.Args) != 2 || os.Args[0] != keeperName {
		return
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE)
	var b [1]byte
	for {
		if _, err := unix.Read(keeperPipe, b[:]); err != unix.EINTR {
			break
		}
	}
	record := os.NewFile(keeperRecord, os.Args[1])
	if err := undoRecord(record); err != nil {
		fmt.Fprintf(os.Stderr, "argyle: %v\n", err)
		os.Exit(1) //nolint:revive // this is main
	}
	_ = os.Remove(record.Name()) // an empty one does no harm
	os.Exit(0)                   //nolint:revive // this is main
}
