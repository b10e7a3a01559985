package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/argyle-socks/argyle/internal/users"
)

func passwdCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "passwd FILE NAME",
		Short: "Add a user to a users file, or change a password",
		Long: `Add a user to a users file, or change a password.

The password is asked for twice on a terminal; otherwise it is the first line
of standard input. The file keeps an argon2id hash of it.`,
		Example: "  argyle passwd users ann",
		Args:    arguments(cobra.ExactArgs(2)),
		RunE: func(_ *cobra.Command, args []string) error {
			password, err := readPassword(args[1])
			if err != nil {
				return err
			}
			return users.Set(args[0], args[1], password)
		},
	}
}

// readPassword asks for a password on the terminal, or reads a line.
func readPassword(name string) (string, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, 4096)).ReadString('\n')
		if err != nil && (err != io.EOF || line == "") {
			return "", fmt.Errorf("read password: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	first, err := prompt(fd, "Password for "+name+": ")
	if err != nil {
		return "", err
	}
	second, err := prompt(fd, "Once more: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the passwords differ")
	}
	return first, nil
}

func prompt(fd int, text string) (string, error) {
	fmt.Fprint(os.Stderr, text)
	b, err := term.ReadPassword(fd)
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return string(b), nil
}
