//go:build linux

package netns

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

// Sockets of resolvers outside are masked; others are not.
func TestMask(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one.sock", "two.sock", "other"} {
		ln, err := net.Listen("unix", dir+"/"+name)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
	}
	out := output(t, wrapped(t, Config{Mask: []string{dir + "/*.sock", dir + "/absent"}}, self(t), "unix",
		dir+"/one.sock", dir+"/two.sock", dir+"/other"))
	if lines := strings.Split(out, "\n"); len(lines) != 4 || !strings.Contains(lines[0], "refused") ||
		!strings.Contains(lines[1], "refused") || lines[2] != "<nil>" {
		t.Error(out)
	}
	if !found("unshare") || wrapped(t, Config{}, "unshare", "-Urm", "true").Run() != nil {
		return
	}
	inner := wrapped(t, Config{Mask: []string{dir + "/one.sock"}}, "unshare", "-Urm", "umount", dir+"/one.sock")
	if text, err := inner.CombinedOutput(); err == nil {
		t.Errorf("the mask can be taken off: %s", text)
	}
}

// Abstract sockets, which a mask cannot hide, belong to the network namespace.
func TestAbstract(t *testing.T) {
	name := fmt.Sprintf("@argyle-test-%d", os.Getpid())
	ln, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if out := output(t, wrapped(t, Config{}, self(t), "unix", name)); !strings.Contains(out, "refused") {
		t.Error(out)
	}
}

func TestPlainHosts(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"passwd: files sss\nhosts:\tfiles  dns # as ever\n", ""},
		{"hosts: files mdns4_minimal [NOTFOUND=return] dns\nnetworks: files\n", "hosts: files dns\nnetworks: files\n"},
		{"hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns", "hosts: files myhostname dns\n"},
		{"hosts: files resolve\n", "hosts: files dns\n"},
		{"#hosts: resolve\nghosts: resolve\n", ""},
		{"", ""},
	} {
		if c.want == "" {
			c.want = c.text
		}
		if got := string(plainHosts([]byte(c.text))); got != c.want {
			t.Errorf("%q becomes %q, not %q", c.text, got, c.want)
		}
	}
}

// Whatever an nsswitch.conf says, hosts are then looked up by nothing else, and all
// other lines are as they were.
func FuzzPlainHosts(f *testing.F) {
	f.Add([]byte("hosts: files mdns4_minimal [NOTFOUND=return] dns\nnetworks: files\n"))
	f.Add([]byte("hosts:resolve#x\n hosts : dns"))
	f.Fuzz(func(t *testing.T, text []byte) {
		plain := plainHosts(text)
		if again := plainHosts(plain); !bytes.Equal(again, plain) {
			t.Fatalf("%q becomes %q, and that %q", text, plain, again)
		}
		if !bytes.Contains(text, []byte("hosts")) && !bytes.Equal(plain, text) {
			t.Fatalf("%q becomes %q", text, plain)
		}
	})
}
