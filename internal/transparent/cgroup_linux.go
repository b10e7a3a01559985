package transparent

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"
)

// cgroup is a control group of version 2: nf_tables knows it by its number, and
// by how deep in the tree it is.
type cgroup struct {
	path  string
	level uint32
	id    uint64
}

// findCgroup finds a control group by its path from the root of the hierarchy,
// or by that of its folder.
func findCgroup(name string) (cgroup, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return cgroup{}, err
	}
	mount, err := cgroupMount(string(text))
	if err != nil {
		return cgroup{}, err
	}
	inner := path.Clean("/" + name)
	if rest, ok := strings.CutPrefix(inner, mount+"/"); ok {
		inner = "/" + rest
	}
	if inner == "/" || inner == mount {
		return cgroup{}, fmt.Errorf("control group %q: every program is in that one", name)
	}
	info, err := os.Stat(mount + inner)
	if err != nil {
		return cgroup{}, fmt.Errorf("control group: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return cgroup{}, fmt.Errorf("control group %q: %s is no folder", name, mount+inner)
	}
	inner = strings.TrimPrefix(inner, "/")
	return cgroup{inner, uint32(strings.Count(inner, "/") + 1), stat.Ino}, nil
}

// cgroupMount finds where the hierarchy is mounted, in the text of a mountinfo
// (proc(5)).
func cgroupMount(mountinfo string) (string, error) {
	for line := range strings.Lines(mountinfo) {
		place, kind, ok := strings.Cut(line, " - ")
		fields := strings.Fields(place)
		if ok && strings.HasPrefix(kind, "cgroup2 ") && len(fields) >= 5 {
			return fields[4], nil
		}
	}
	return "", errors.New("control groups of version 2 are not mounted here")
}
