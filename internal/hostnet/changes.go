//go:build linux

package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrRunning says that another process makes changes by the same name here.
var ErrRunning = errors.New("it is running already")

// Dir is where the records are. It is empty again after a restart of the
// system, as the routes are.
const Dir = "/run/argyle"

// Changes are what a program has changed of this network namespace. The methods
// may be called from several goroutines.
type Changes struct {
	mu     sync.Mutex
	record *os.File // locked as long as the keeper lives, or we do without one
	keeper *keeper
	done   []change
}

// A change is one that can be taken back. One of its fields is set.
type change struct {
	Rule   *netlink.Rule  `json:"rule,omitempty"`
	Route  *netlink.Route `json:"route,omitempty"`
	Table  string         `json:"table,omitempty"` // of nftables, of family inet
	Sysctl string         `json:"sysctl,omitempty"`
	Before string         `json:"before,omitempty"` // its value
}

// Open begins changes by a name, of which there is one program at a time in a
// network namespace: else the error is [ErrRunning]. What a former one has left
// behind is taken back first. It needs CAP_NET_ADMIN.
func Open(name string) (*Changes, error) {
	record, err := openRecord(name)
	if err != nil {
		return nil, err
	}
	if err := undoRecord(record); err != nil {
		record.Close()
		return nil, fmt.Errorf("take back what a former run has left: %w", err)
	}
	keeper, err := startKeeper(record)
	if err != nil {
		record.Close()
		return nil, err
	}
	return &Changes{record: record, keeper: keeper}, nil
}

// Cleanup takes back what a program has left behind that is not running any
// more, and says how much that was.
func Cleanup(name string) (n int, err error) {
	record, err := openRecord(name)
	if err != nil {
		return 0, err
	}
	defer record.Close()
	changes, err := readRecord(record)
	if err != nil {
		return 0, err
	}
	if err := undoRecord(record); err != nil {
		return 0, err
	}
	return len(changes), os.Remove(record.Name())
}

// openRecord opens the record of a name in this network namespace, and locks it.
func openRecord(name string) (*os.File, error) {
	space, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	stat, ok := space.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, errors.New("the network namespace has no number")
	}
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return nil, fmt.Errorf("keep a record of changes: %w", err)
	}
	path := filepath.Join(Dir, fmt.Sprintf("%s@%d.json", name, stat.Ino))
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("keep a record of changes: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("%s: %w", name, ErrRunning)
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Whoever held the lock may have removed the file.
		if mine, err := f.Stat(); err == nil {
			if now, err := os.Stat(path); err == nil && os.SameFile(mine, now) {
				return f, nil
			}
		}
		f.Close()
	}
}

// readRecord returns the changes on record. A last line that is not whole is of
// a change that was not made.
func readRecord(f *os.File) (changes []change, err error) {
	text, err := os.ReadFile(f.Name())
	if err != nil {
		return nil, fmt.Errorf("read the record of changes: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		var c change
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			if !strings.HasSuffix(line, "\n") {
				break
			}
			return nil, fmt.Errorf("read the record of changes %s: %w", f.Name(), err)
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// undoRecord takes back what is on record, the last change first, and empties
// the record.
func undoRecord(f *os.File) error {
	changes, err := readRecord(f)
	if err != nil {
		return err
	}
	if err := undoAll(changes); err != nil {
		return err
	}
	return f.Truncate(0)
}

func undoAll(changes []change) error {
	var errs []error
	for i := len(changes) - 1; i >= 0; i-- {
		errs = append(errs, changes[i].undo())
	}
	return errors.Join(errs...)
}

// Rule adds a rule of policy routing.
func (c *Changes) Rule(rule *netlink.Rule) error { return c.make(change{Rule: rule}) }

// Route adds a route. One over a device that goes away with the program need not
// be on record, but may.
func (c *Changes) Route(route *netlink.Route) error { return c.make(change{Route: route}) }

// Table says that there will be a table of nftables, of family inet, which
// somebody else makes.
func (c *Changes) Table(name string) error { return c.make(change{Table: name}) }

// Sysctl sets a variable of the kernel, such as net/ipv4/ip_forward.
func (c *Changes) Sysctl(name, value string) error {
	before, err := os.ReadFile(filepath.Join("/proc/sys", name))
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", name, err)
	}
	if strings.TrimSpace(string(before)) == value {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.note(change{Sysctl: name, Before: strings.TrimSpace(string(before))}); err != nil {
		return err
	}
	return setSysctl(name, value)
}

// make notes a change and makes it.
func (c *Changes) make(one change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := one.exists(); err != nil {
		return err
	}
	if err := c.note(one); err != nil {
		return err
	}
	return one.do()
}

// note puts a change on record.
func (c *Changes) note(one change) error {
	if c.record == nil {
		return os.ErrClosed
	}
	line, err := json.Marshal(one)
	if err != nil {
		return err
	}
	if _, err := c.record.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("keep a record of changes: %w", err)
	}
	c.done = append(c.done, one)
	return nil
}

// Close takes all changes back, the last first.
func (c *Changes) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.record == nil {
		return nil
	}
	err := undoAll(c.done)
	if err == nil {
		err = c.record.Truncate(0)
	}
	// The keeper removes the record if there is nothing left in it, and lets go
	// of the lock.
	err = errors.Join(err, c.record.Close(), c.keeper.end())
	c.record, c.done = nil, nil
	return err
}
