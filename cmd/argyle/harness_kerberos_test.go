//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// enctypes are the encryption types by number.
var enctypes = map[int]string{
	17: "aes128-cts-hmac-sha1-96", 18: "aes256-cts-hmac-sha1-96",
	19: "aes128-cts-hmac-sha256-128", 20: "aes256-cts-hmac-sha384-192",
}

// A realm is EXAMPLE.TEST, with a KDC of MIT's. Its users alice and bob have passwords and keytabs; the services rcmd and
// rcmd17 to rcmd20, which have keys of one type each, are on localhost.
type realm struct {
	dir    string
	keytab string // of the services
}

const kerberosPassword = "a long way to Tipperary"

func startRealm(t testing.TB) *realm {
	t.Helper()
	kdc := peer(t, "krb5kdc")
	peer(t, "kinit")
	r := &realm{dir: t.TempDir()}
	r.keytab = r.file("services.keytab")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close() // nobody else gets it soon
	for n := range enctypes {
		r.write(t, configOf(n), r.config(port, enctypes[n]))
	}
	r.write(t, "krb5.conf", r.config(port, ""))
	r.write(t, "kdc.conf", fmt.Sprintf(`
[kdcdefaults]
  kdc_listen = 127.0.0.1:%[1]s
  kdc_tcp_listen = 127.0.0.1:%[1]s
[realms]
  EXAMPLE.TEST = {
    database_name = %[2]s/principals
    key_stash_file = %[2]s/stash
    supported_enctypes = %[3]s
  }
[logging]
  kdc = FILE:%[2]s/kdc.log
`, port, r.dir, strings.Join([]string{enctypes[18], enctypes[17], enctypes[20], enctypes[19]}, " ")))
	mustRun(t, r.command(t, "kdb5_util", "create", "-s", "-r", "EXAMPLE.TEST", "-P", "master"))
	script := "addprinc -pw \"" + kerberosPassword + "\" alice\naddprinc -pw \"" + kerberosPassword + "\" bob\n" +
		"ktadd -norandkey -k " + r.file("alice.keytab") + " alice\n" +
		"addprinc -randkey rcmd/localhost\naddprinc -randkey host/localhost\nktadd -k " + r.keytab + " rcmd/localhost\n"
	for n, name := range enctypes {
		script += fmt.Sprintf("addprinc -randkey -e %[2]s:normal rcmd%[1]d/localhost\nktadd -e %[2]s:normal -k %[3]s rcmd%[1]d/localhost\n", n, name, r.keytab)
	}
	r.kadmin(t, script)
	server := start(t, r.command(t, kdc, "-n"))
	eventually(t, "the KDC to listen", func() bool {
		select {
		case <-server.ended:
			log, _ := os.ReadFile(r.file("kdc.log"))
			t.Fatalf("the KDC ended: %v\n%s", server.err, log)
		default:
		}
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return r
}

// configOf is the name of the krb5.conf with one encryption type.
func configOf(enctype int) string { return fmt.Sprintf("krb5-%d.conf", enctype) }

// config is a krb5.conf, with one encryption type for all but the KDC's own keys if that is not "".
func (r *realm) config(port, enctype string) string {
	types := ""
	if enctype != "" {
		types = fmt.Sprintf("  permitted_enctypes = %[1]s\n  default_tkt_enctypes = %[1]s\n  default_tgs_enctypes = %[1]s\n", enctype)
	}
	return fmt.Sprintf(`
[libdefaults]
  default_realm = EXAMPLE.TEST
  dns_lookup_realm = false
  dns_lookup_kdc = false
  dns_canonicalize_hostname = false
  rdns = false
%s[realms]
  EXAMPLE.TEST = {
    kdc = 127.0.0.1:%s
  }
[domain_realm]
  localhost = EXAMPLE.TEST
`, types, port)
}

func (r *realm) file(name string) string { return filepath.Join(r.dir, name) }

func (r *realm) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(r.file(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// command prepares one of MIT's programs, or another one that knows of the realm.
func (r *realm) command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	if !strings.Contains(name, "/") {
		name = peer(t, name)
	}
	return r.knows(command(t, name, args...))
}

// knows tells a program of the realm.
func (r *realm) knows(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(cmd.Env, "KRB5_CONFIG="+r.file("krb5.conf"), "KRB5_KDC_PROFILE="+r.file("kdc.conf"),
		"KRB5RCACHENAME=none:", "KRB5_KTNAME=FILE:"+r.keytab)
	return cmd
}

// with changes a variable of a program.
func with(cmd *exec.Cmd, variable, value string) *exec.Cmd {
	cmd.Env = append(cmd.Env, variable+"="+value)
	return cmd
}

// kadmin runs lines of kadmin's.
func (r *realm) kadmin(t testing.TB, script string) {
	t.Helper()
	cmd := r.command(t, "kadmin.local")
	cmd.Stdin = strings.NewReader(script)
	mustRun(t, cmd)
}

// kinit gets a ticket and returns the cache that has it. config is a krb5.conf of the realm.
func (r *realm) kinit(t testing.TB, user, config string) string {
	t.Helper()
	cache := r.file(user + "-" + config + ".cache")
	cmd := with(r.command(t, "kinit", "-c", cache, user), "KRB5_CONFIG", r.file(config))
	cmd.Stdin = strings.NewReader(kerberosPassword + "\n")
	mustRun(t, cmd)
	return cache
}
