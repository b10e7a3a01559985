// Command argyle is the SOCKS toolkit: a server, and the tools that send
// programs through one. See docs/ for a page per subcommand.
package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func main() {
	becomeChild()
	os.Exit(run(ownArgs()))
}

// run executes the command line and returns the exit status: 1 for a failure,
// 2 for a wrong command line.
func run(args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return 0
	}
	if errors.Is(err, errTold) {
		return 1
	}
	var ended *exitError
	if errors.As(err, &ended) && ended.err == nil {
		if ended.exit != nil {
			ended.exit()
		}
		return ended.code
	}
	fmt.Fprintf(os.Stderr, "argyle: %s\n", oneLine(err))
	var usage *usageError
	if errors.As(err, &usage) {
		return 2
	}
	if ended != nil {
		return ended.code
	}
	return 1
}

// oneLine returns the first of the errors that err joins, and says how many
// there are besides.
func oneLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	if len(lines) == 1 {
		return lines[0]
	}
	return fmt.Sprintf("%s (and %d more)", lines[0], len(lines)-1)
}

// usageError is a wrong command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

func rootCommand() *cobra.Command {
	common := new(commonFlags)
	root := &cobra.Command{
		Use:           "argyle",
		Short:         "The SOCKS toolkit",
		Long:          "argyle speaks SOCKS 4, 4a and 5, as a server and as a client.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w (see %s --help)", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringArrayVarP(&common.proxies, "proxy", "x", nil, "go out through the proxy `URL`; repeat it for a chain, nearest first")
	flags.StringVarP(&common.config, "config", "c", "", "read the configuration in `FILE`")
	flags.CountVarP(&common.verbose, "verbose", "v", "say more")
	flags.BoolVarP(&common.quiet, "quiet", "q", false, "say only what is wrong")
	flags.StringVar(&common.logFormat, "log-format", "text", "`text` or json")
	root.AddCommand(
		serveCommand(common),
		runCommand(common),
		connectCommand(common),
		probeCommand(common),
		forwardCommand(common),
		redirectCommand(common),
		tunCommand(common),
		gatewayCommand(common),
		checkCommand(common),
		explainCommand(common),
		passwdCommand(),
		versionCommand(),
	)
	checkHelp(root)
	return root
}

// checkHelp makes help for what does not exist an error; cobra's is content.
func checkHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	if err != nil {
		panic(err) // it has just been made
	}
	help.Args = arguments(func(_ *cobra.Command, args []string) error {
		cmd, rest, err := root.Find(args)
		if err != nil {
			return err
		}
		return cobra.NoArgs(cmd, rest)
	})
}

// commonFlags are those that every subcommand has.
type commonFlags struct {
	proxies   []string
	config    string
	verbose   int
	quiet     bool
	logFormat string
}

// path returns a path of the command line as the configuration is to have it:
// one in the file would be relative to the file.
func (f *commonFlags) path(name string) string {
	abs, err := filepath.Abs(name)
	if f.config == "" || err != nil {
		return name
	}
	return abs
}

// logger returns what the flags ask for.
func (f *commonFlags) logger(w io.Writer) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	switch {
	case f.verbose > 0:
		options.Level = slog.LevelDebug
	case f.quiet:
		options.Level = slog.LevelWarn
	}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usagef("--log-format %q: want text or json", f.logFormat)
}

// arguments makes a wrong number of arguments an error of usage.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usagef("%w (see %s --help)", err, cmd.CommandPath())
		}
		return nil
	}
}
