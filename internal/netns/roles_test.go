//go:build linux

package netns

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/argyle-socks/argyle/internal/transparent"
)

// wrap does what argyle run does. Its Config is in the environment.
func wrap(args []string) error {
	var config Config
	if text := os.Getenv("NETNS_CONFIG"); text != "" {
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			return err
		}
	}
	config.Argv = args
	w, err := Start(context.Background(), config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, ErrForbidden) {
			fmt.Fprintln(os.Stderr, "FORBIDDEN")
		}
		os.Exit(125)
	}
	if file := w.File("tcp"); file != nil {
		ln, err := net.FileListener(file)
		if err != nil {
			return err
		}
		go serveEcho(ln)
	}
	status, err := w.Run()
	_ = w.Close()
	var exit *ExitError
	if errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exit.Code)
	}
	status.Exit()
	return nil
}

// serveEcho tells clients where they wanted to go, and keeps the connection.
func serveEcho(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(conn, conn.LocalAddr(), conn.RemoteAddr().(*net.TCPAddr).IP)
	}
}

// testHook is what the tests' children do: what the text says.
func testHook(text []byte) (map[string]*os.File, error) {
	switch string(text) {
	case "":
		return nil, nil
	case "tproxy":
		return tproxyHook()
	}
	return nil, errors.New(string(text))
}

func tproxyHook() (map[string]*os.File, error) {
	ln, err := transparent.ListenTCP()
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	rules := &transparent.Rules{
		Table: "test", TCP: uint16(ln.Addr().(*net.TCPAddr).Port),
		Except: []netip.Prefix{
			netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
			netip.MustParsePrefix("192.0.0.2/32"), netip.MustParsePrefix("fd61:7267:796c:6500::1/128"),
		},
	}
	if err := rules.Install(); err != nil {
		return nil, err
	}
	file, err := ln.File()
	return map[string]*os.File{"tcp": file}, err
}

// roleTCP connects to each address and prints what it is told. With "-" as the
// last, it then waits for a line of input, and begins again.
func roleTCP(addrs []string) error {
	in := bufio.NewReader(os.Stdin)
	for {
		for _, addr := range addrs {
			if addr == "-" {
				continue
			}
			conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
			if err != nil {
				fmt.Println("error:", err)
				continue
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			fmt.Print(line)
			conn.Close()
			if err != nil {
				fmt.Println("error:", err)
			}
		}
		if addrs[len(addrs)-1] != "-" {
			return nil
		}
		if _, err := in.ReadString('\n'); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// roleUDP asks an address, and prints the answer and where it comes from.
func roleUDP(addrs []string) error {
	for _, addr := range addrs {
		conn, err := net.Dial("udp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		b := make([]byte, 100)
		if _, err := conn.Write([]byte("ask")); err != nil {
			return err
		}
		n, err := conn.Read(b)
		if err != nil {
			return err
		}
		fmt.Printf("%s from %s\n", b[:n], addr)
	}
	return nil
}

// roleServe echoes on its own loopback, TCP and UDP, until its input ends.
func roleServe(addrs []string) error {
	for _, addr := range addrs {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		packets, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go io.Copy(conn, conn)
			}
		}()
		go func() {
			b := make([]byte, 2000)
			for {
				n, from, err := packets.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = packets.WriteTo(b[:n], from)
			}
		}()
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// roleUnix connects to unix sockets.
func roleUnix(paths []string) error {
	for _, path := range paths {
		conn, err := net.Dial("unix", path)
		fmt.Println(err)
		if err == nil {
			conn.Close()
		}
	}
	return nil
}
