package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/argyle-socks/argyle/internal/config"
)

func checkCommand(common *commonFlags) *cobra.Command {
	var schema, diff bool
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Check a configuration",
		Long: `Check a configuration: its syntax, what it refers to, and the tests in it.
Every mistake is told, with its line and column.

Nothing is listened on, dialled or looked up.`,
		Example: `  argyle check -c argyle.yaml
  argyle check --schema > argyle.schema.json
  argyle check --diff old.yaml new.yaml`,
		Args: arguments(func(cmd *cobra.Command, args []string) error {
			if diff {
				return cobra.ExactArgs(2)(cmd, args)
			}
			return cobra.NoArgs(cmd, args)
		}),
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case schema:
				_, err := os.Stdout.Write(config.Schema())
				return err
			case diff:
				return printDiff(os.Stdout, args[0], args[1])
			case common.config == "":
				return usagef("check: which file? Give -c FILE")
			}
			return check(os.Stdout, os.Stderr, common.config)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&schema, "schema", false, "print the JSON Schema of configurations, for editors")
	flags.BoolVar(&diff, "diff", false, "say what changes from the file OLD to the file NEW")
	return cmd
}

// errTold is a failure that has been told already.
var errTold = errors.New("told")

// check tells what is wrong with a configuration, or that nothing is.
func check(stdout, stderr io.Writer, path string) error {
	set, err := checkFile(path)
	if err == nil {
		err = set.checkOpenRelay()
	}
	if err != nil {
		tell(stderr, err)
		return errTold
	}
	fmt.Fprintf(stdout, "%s: ok (%d rules, %d upstreams, %d tests passed)\n",
		path, len(set.file.Rules), len(set.file.Upstreams), len(set.file.Tests))
	return nil
}

// checkFile makes of a file all that a server would, listeners apart.
func checkFile(path string) (*setup, error) {
	w := newWorld(slog.New(slog.DiscardHandler))
	loader := newLoader(path)
	loader.Further = w.checkFiles
	file, err := loader.Load(path)
	if err != nil {
		return nil, err
	}
	return w.build(file, nil)
}

// checkFiles says what is wrong with the files that a configuration names, which
// itself has mistakes.
func (w *world) checkFiles(file *config.File) error {
	set := &setup{file: file}
	_, errs := set.makeSets()
	return errors.Join(append(errs, set.openUsers(w, nil), set.openGSSAPI(w), set.openTLS())...)
}

// tell writes every error, with the lines that are meant.
func tell(w io.Writer, err error) {
	for _, e := range unjoin(err) {
		var at *config.Error
		if errors.As(e, &at) {
			fmt.Fprintf(w, "argyle: %s\n", at.Annotated())
			continue
		}
		fmt.Fprintf(w, "argyle: %v\n", e)
	}
}
