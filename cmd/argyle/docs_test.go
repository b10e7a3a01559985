package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/argyle-socks/argyle/internal/upstream"
)

// Every flag of a command is in its page, with its shorthand, its value's name and its default, and no page has another.
func TestDocsFlags(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"serve", "run", "connect", "forward", "redirect", "tun", "gateway", "probe", "passwd", "check", "explain"} {
		t.Run(name, func(t *testing.T) {
			page := docsPage(t, name)
			cmd := commandOf(t, name)
			rows := flagRows(page)
			for _, flag := range flagsOf(cmd) {
				row, found := rows[flag.Name]
				switch {
				case found && row != flagRow(flag):
					t.Errorf("the page has --%s as %q, the program as %q", flag.Name, row, flagRow(flag))
				case !found && (cmd.LocalFlags().Lookup(flag.Name) != nil || !strings.Contains(page, "`--"+flag.Name+"`")):
					t.Errorf("the page says nothing of --%s", flag.Name)
				}
			}
			for _, mention := range regexp.MustCompile("`--([a-z0-9-]+)").FindAllStringSubmatch(page, -1) {
				// A page may mention another command's flag, but not describe it.
				known := slices.ContainsFunc(below(rootCommand()), func(c *cobra.Command) bool { return lookup(c, mention[1]) != nil })
				if !known || rows[mention[1]] != "" && lookup(cmd, mention[1]) == nil {
					t.Errorf("there is no --%s", mention[1])
				}
			}
		})
	}
}

// Command lines in the pages are right.
func TestDocsExamples(t *testing.T) {
	t.Parallel()
	lines := regexp.MustCompile(`(?m)^    .*\bargyle (serve|run|connect|forward|redirect|tun|gateway|probe|passwd|check|explain) ([^'"|<>#…\n]*)(.*)`)
	for _, name := range []string{"serve", "run", "connect", "forward", "redirect", "tun", "gateway", "probe", "passwd", "check", "operating"} {
		found := lines.FindAllStringSubmatch(docsPage(t, name), -1)
		if len(found) == 0 {
			t.Errorf("%s has no examples", name)
		}
		for _, match := range found {
			if strings.HasPrefix(match[3], `"$@"`) {
				match[2] += " host 1" // what git puts in
			}
			cmd, words := commandOf(t, match[1]), strings.Fields(match[2])
			for len(words) > 0 && slices.ContainsFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == words[0] }) {
				cmd = commandOf(t, strings.Fields(cmd.CommandPath() + " " + words[0])[1:]...)
				words = words[1:]
			}
			if err := cmd.ParseFlags(words); err != nil {
				t.Errorf("%s: %s: %v", name, match[0], err)
				continue
			}
			if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
				t.Errorf("%s: %s: %v", name, match[0], err)
			}
			proxies, err := cmd.Flags().GetStringArray("proxy")
			if err == nil {
				_, err = upstream.Chain(proxies)
			}
			if err != nil {
				t.Errorf("%s: %s: %v", name, match[0], err)
			}
		}
	}
}

// Every scheme of the page is one, with its port.
func TestDocsSchemes(t *testing.T) {
	t.Parallel()
	rows := regexp.MustCompile("(?m)^\\| `([a-z0-9+]+)` \\| ([0-9]+) \\|").FindAllStringSubmatch(docsPage(t, "connect"), -1)
	if len(rows) != 9 {
		t.Errorf("%d schemes with a port", len(rows))
	}
	for _, row := range rows {
		d, err := upstream.Parse(row[1]+"://gw", nil)
		if err != nil {
			t.Errorf("%s: %v", row[1], err)
			continue
		}
		if want := row[1] + "://gw:" + row[2]; d.(fmt.Stringer).String() != want {
			t.Errorf("%v, want %s", d, want)
		}
	}
}

func docsPage(t testing.TB, name string) string { return docsFile(t, "../../docs/"+name+".md") }

func docsFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// below are all commands below one, at any depth.
func below(cmd *cobra.Command) (all []*cobra.Command) {
	for _, c := range cmd.Commands() {
		c.InheritedFlags() // makes cobra join them with the command's own
		all = append(append(all, c), below(c)...)
	}
	return all
}

func commandOf(t testing.TB, path ...string) *cobra.Command {
	t.Helper()
	cmd, _, err := rootCommand().Find(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd.InheritedFlags() // makes cobra join them with the command's own
	return cmd
}

func lookup(cmd *cobra.Command, name string) *pflag.Flag {
	if flag := cmd.Flags().Lookup(name); flag != nil {
		return flag
	}
	return cmd.InheritedFlags().Lookup(name)
}

// flagsOf are the flags of a command, those of all commands included.
func flagsOf(cmd *cobra.Command) (all []*pflag.Flag) {
	add := func(flag *pflag.Flag) { all = append(all, flag) }
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	return all
}

// flagRow is how a page has to describe a flag: "-x, --proxy URL = default".
func flagRow(flag *pflag.Flag) string {
	text := "--" + flag.Name
	if flag.Shorthand != "" {
		text = "-" + flag.Shorthand + ", " + text
	}
	if value, _ := pflag.UnquoteUsage(flag); value != "" && value != "count" {
		text += " " + value
	}
	byDefault := flag.DefValue
	switch {
	case flag.Name == "listen":
		byDefault = strings.Join(defaultListeners, " and ")
	case byDefault == "[]", flag.Value.Type() == "count":
		byDefault = ""
	}
	return text + " = " + byDefault
}

// flagRows reads the rows of a page's table of flags, in the form of flagRow.
func flagRows(page string) map[string]string {
	rows := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:-\\w, )?--([a-z0-9-]+)[^`]*)` \\| ([^|]*)\\|").FindAllStringSubmatch(page, -1) {
		rows[row[2]] = row[1] + " = " + strings.TrimSpace(strings.ReplaceAll(row[3], "`", ""))
	}
	return rows
}
