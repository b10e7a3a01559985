//go:build linux

package seccomp

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Prerequisite is something that [Start] needs of the system.
type Prerequisite struct {
	What string
	OK   bool
	Why  string // what is wrong, if it is not OK
	Mend string // what mends it
}

// Prerequisites looks for everything that Start needs. It changes nothing.
func Prerequisites() []Prerequisite {
	kernel := Prerequisite{What: "Linux 5.19 on amd64 or arm64 (engine seccomp)", Mend: "use a newer kernel"}
	if _, err := filter(); err != nil {
		kernel.Why = err.Error()
	} else if major, minor := release(); major < 5 || major == 5 && minor < 19 {
		kernel.Why = fmt.Sprintf("this is Linux %d.%d", major, minor)
	} else {
		kernel.OK = true
	}
	yama := Prerequisite{
		What: "sysctl kernel.yama.ptrace_scope 0 or 1 (engine seccomp)", OK: true,
		Mend: "as root: sysctl -w kernel.yama.ptrace_scope=1",
	}
	if text, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); err == nil {
		if scope := strings.TrimSpace(string(text)); scope != "0" && scope != "1" {
			yama.OK, yama.Why = false, "it is "+scope
		}
	}
	return []Prerequisite{kernel, yama}
}

// release returns the first two numbers of the kernel's version.
func release() (major, minor int) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return 0, 0
	}
	text, _, _ := bytes.Cut(name.Release[:], []byte{0})
	_, _ = fmt.Sscanf(string(text), "%d.%d", &major, &minor) // 0 if it is no number
	return major, minor
}
