// Command client is a program that no preloaded library can lead: static, and
// with a resolver of its own.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	commands := map[string]func(args []string) error{
		"lookup": lookup, "http": fetch, "tcp": stream, "udp": datagrams, "many": many, "errno": errno, "half": half,
	}
	do, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprintf(os.Stderr, "client: no command %q\n", os.Args[1])
		os.Exit(2)
	}
	if err := do(os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "client %s: %v\n", strings.Join(os.Args[1:], " "), err)
		os.Exit(1)
	}
}

// lookup NAME prints a line for each family that the name has.
func lookup(args []string) error {
	resolver := &net.Resolver{PreferGo: true}
	for _, network := range []string{"ip4", "ip6"} {
		ips, err := resolver.LookupNetIP(context.Background(), network, args[0])
		var unknown *net.DNSError
		if errors.As(err, &unknown) && unknown.IsNotFound {
			continue
		}
		if err != nil {
			return err
		}
		fmt.Println(network, ips)
	}
	return nil
}

// fetch URL prints what is there.
func fetch(args []string) error {
	response, err := http.Get(args[0])
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

// stream ADDR SIZE sends that much to an echo, and wants it back.
func stream(args []string) error {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	return roundTrip(conn, size)
}

func roundTrip(conn net.Conn, size int) error {
	data := bytes.Repeat([]byte("argyle "), size/7+1)[:size]
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	got := make([]byte, size)
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return errors.New("the echo is another")
	}
	return <-sent
}

// half ADDR ends its half of a stream, and then reads the answer to all of it.
func half(args []string) error {
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "half a connection"); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// many ADDR COUNT makes that many connections at once.
func many(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	results := make(chan error, count)
	var all sync.WaitGroup
	for range count {
		all.Go(func() { results <- stream([]string{args[0], "1000"}) })
	}
	all.Wait()
	close(results)
	for err := range results {
		if err != nil {
			return err
		}
	}
	return nil
}

// datagrams ADDR COUNT SIZE sends that many to an echo, a few at a time, and
// wants all of them back, from where it sent them. The socket is not connected.
func datagrams(args []string) error {
	dest, err := net.ResolveUDPAddr("udp", args[0])
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	missing := make(map[int]bool)
	const window = 16
	for sent := 0; sent < count || len(missing) > 0; {
		for sent < count && len(missing) < window {
			message := append([]byte(strconv.Itoa(sent)+" "), make([]byte, size)...)[:size]
			if _, err := conn.WriteTo(message, dest); err != nil {
				return err
			}
			missing[sent] = true
			sent++
		}
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return fmt.Errorf("%d sent, %d not back: %w", sent, len(missing), err)
		}
		if from.Addr().Unmap() != dest.AddrPort().Addr().Unmap() || from.Port() != dest.AddrPort().Port() || n != size {
			return fmt.Errorf("%d bytes from %v, not %d from %v", n, from, size, dest)
		}
		number, _, _ := bytes.Cut(buf[:n], []byte(" "))
		i, err := strconv.Atoi(string(number))
		if err != nil {
			return err
		}
		delete(missing, i)
	}
	fmt.Println(count)
	return nil
}

// errno ADDR prints the number that connect fails with.
func errno(args []string) error {
	dialer := net.Dialer{Timeout: 15 * time.Second}
	conn, err := dialer.Dial("tcp", args[0])
	if err == nil {
		conn.Close()
		fmt.Println("connected")
		return nil
	}
	var number syscall.Errno
	if !errors.As(err, &number) {
		return err
	}
	fmt.Println(int(number), number)
	return nil
}
