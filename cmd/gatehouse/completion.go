package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (completionCmd) Help() string {
	return `Where it goes:
  gatehouse completion bash > /etc/bash_completion.d/gatehouse
  gatehouse completion zsh > "${fpath[1]}/_gatehouse"
  gatehouse completion fish > ~/.config/fish/completions/gatehouse.fish`
}

// Run writes a script that holds every command and flag as they are now; the
// libraries that do this for kong call the program at each key instead, and
// bring an unkept one with them.
func (c completionCmd) Run(s streams, app *kong.Application) error {
	switch c.Shell {
	case "fish":
		return fish(s.out, app)
	case "zsh":
		// zsh reads bash's functions through its own bridge.
		if _, err := io.WriteString(s.out, "#compdef gatehouse\nautoload -U +X bashcompinit && bashcompinit\n"); err != nil {
			return err
		}
	}
	return bash(s.out, app)
}

// bash completes the command from the words before the cursor, files elsewhere.
func bash(w io.Writer, app *kong.Application) error {
	var b strings.Builder
	b.WriteString("_gatehouse() {\n" +
		"    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= word words=\n" +
		"    for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n" +
		"        case $path/$word in\n")
	walkCommands(app.Node, "", func(path string, n *kong.Node) {
		if path != "" {
			fmt.Fprintf(&b, "        %s) path=%s ;;\n", path, path)
		}
	})
	b.WriteString("        esac\n    done\n    case $path:$prev in\n")
	walkCommands(app.Node, "", func(path string, n *kong.Node) {
		for _, f := range n.Flags {
			if values := f.EnumSlice(); len(values) > 0 && values[0] != "" {
				fmt.Fprintf(&b, "    %s:--%s) words='%s' ;;\n", path, f.Name, strings.Join(values, " "))
			}
		}
	})
	b.WriteString("    *) case $path in\n")
	walkCommands(app.Node, "", func(path string, n *kong.Node) {
		fmt.Fprintf(&b, "        '%s') words='%s' ;;\n", path, strings.Join(wordsOf(n), " "))
	})
	b.WriteString("        esac ;;\n    esac\n" +
		"    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n" +
		"}\n" +
		"complete -o default -F _gatehouse gatehouse\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func fish(w io.Writer, app *kong.Application) error {
	var b strings.Builder
	walkCommands(app.Node, "", func(path string, n *kong.Node) {
		seen := strings.Fields(strings.ReplaceAll(path, "/", " "))
		when := "__fish_use_subcommand"
		if len(seen) > 0 {
			when = "__fish_seen_subcommand_from " + seen[len(seen)-1]
		}
		for _, child := range n.Children {
			fmt.Fprintf(&b, "complete -c gatehouse -f -n %q -a %s -d %q\n", when, child.Name, child.Help)
		}
		for _, f := range n.Flags {
			fmt.Fprintf(&b, "complete -c gatehouse -n %q -l %s -d %q", when, f.Name, f.Help)
			if f.Short != 0 {
				fmt.Fprintf(&b, " -s %c", f.Short)
			}
			if values := f.EnumSlice(); len(values) > 0 && values[0] != "" {
				fmt.Fprintf(&b, " -x -a %q", strings.Join(values, " "))
			} else if !f.IsBool() {
				b.WriteString(" -r")
			}
			b.WriteByte('\n')
		}
	})
	_, err := io.WriteString(w, b.String())
	return err
}

// walkCommands calls visit with each command, the program itself first.
func walkCommands(n *kong.Node, path string, visit func(path string, n *kong.Node)) {
	visit(path, n)
	for _, child := range n.Children {
		if !child.Hidden {
			walkCommands(child, path+"/"+child.Name, visit)
		}
	}
}

// wordsOf lists what can follow a command: its own commands, flags, and the
// values that its arguments allow.
func wordsOf(n *kong.Node) (words []string) {
	for _, child := range n.Children {
		words = append(words, child.Name)
	}
	for _, arg := range n.Positional {
		for _, v := range arg.EnumSlice() {
			if v != "" {
				words = append(words, v)
			}
		}
	}
	for _, f := range n.Flags {
		words = append(words, "--"+f.Name)
	}
	return words
}
