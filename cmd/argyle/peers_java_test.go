//go:build linux

package main

import (
	"net"
	"testing"
)

// Java offers "no authentication" and "user name, password" always; without an Authenticator it sends the system's user name
// and an empty password when asked.
const javaFetch = `
import java.net.*;

public class Fetch {
    public static void main(String[] args) throws Exception {
        if (args.length == 3) {
            Authenticator.setDefault(new Authenticator() {
                @Override
                protected PasswordAuthentication getPasswordAuthentication() {
                    return new PasswordAuthentication(args[1], args[2].toCharArray());
                }
            });
        }
        try (var in = new URL(args[0]).openStream()) {
            in.transferTo(System.out);
        }
    }
}
`

func TestJava(t *testing.T) {
	t.Parallel()
	java := peer(t, "java")
	source := writeFile(t, "Fetch.java", javaFetch)
	open := startServer(t)
	closed := startServer(t, "--users", usersFile(t))
	for _, test := range []struct {
		name    string
		server  *server
		options []string
		account []string
		refused bool
	}{
		{"open", open, nil, nil, false},
		{"open, version 4", open, []string{"-DsocksProxyVersion=4"}, nil, false},
		{"user", closed, nil, []string{user, password}, false},
		{"wrong password", closed, nil, []string{user, "wrong"}, true},
		{"no authenticator", closed, nil, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dest := website(t, "127.0.0.1:0")
			host, port, _ := net.SplitHostPort(test.server.addr)
			args := append([]string{
				"-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", // a quick start, and no file in /tmp
				"-DsocksProxyHost=" + host, "-DsocksProxyPort=" + port,
				"-DsocksNonProxyHosts=", "-Dhttp.nonProxyHosts=", // or loopback goes around the proxy
			}, test.options...)
			args = append(append(args, source, "http://"+dest+"/"), test.account...)
			c := start(t, command(t, java, args...))
			if code := c.wait(t); (code != 0) != test.refused {
				t.Fatalf("Java's exit status is %d", code)
			}
			if test.refused {
				return
			}
			if got := c.stdout.String(); got != page {
				t.Errorf("Java got %q", got)
			}
			test.server.sessionTo(t, dest)
		})
	}
}
