// Gatehouse finds Ollama servers that answer strangers, proves what each lets
// a stranger do without changing anything on it, and keeps watch.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"gatehouse/internal/report"
)

// version is set by the linker to what git describes.
var version = ""

// Exit codes, the same for every command.
const (
	exitOK       = 0   // nothing at or above --fail-on
	exitFailed   = 1   // could not do it
	exitUsage    = 2   // wrong usage
	exitFindings = 3   // findings at or above --fail-on
	exitStopped  = 130 // ended by Ctrl-C, as a shell reports it
)

// cli is the whole command line. Each flag can be given as GATEHOUSE_<FLAG>.
type cli struct {
	Check      checkCmd      `cmd:"" help:"Is the Ollama on this machine open, and to whom?"`
	Harden     hardenCmd     `cmd:"" help:"Close what check found on this machine, and take it back."`
	Scan       scanCmd       `cmd:"" help:"Find the Ollama servers among addresses, networks, names and URLs."`
	Wave       waveCmd       `cmd:"" help:"The waves that were saved: list, show, compare, estimate."`
	Note       noteCmd       `cmd:"" help:"What people say of a host: accepted, false positive, ticket."`
	Watch      watchCmd      `cmd:"" help:"Look again and again, and tell what changed."`
	Notify     notifyCmd     `cmd:"" help:"Draft a mail to each network that has open servers."`
	Forget     forgetCmd     `cmd:"" help:"Delete all that is kept of an address."`
	Import     importCmd     `cmd:"" help:"Judge what Shodan, Censys, masscan, nmap, zmap or Shadowserver found, or an earlier scan."`
	Demo       demoCmd       `cmd:"" help:"Scan a street of simulated servers on this machine, to see what a scan shows."`
	Report     reportCmd     `cmd:"" help:"Write what a scan found as a page, a PDF, and for other programs."`
	Scope      scopeCmd      `cmd:"" help:"The file that says what may be looked at, and by whose authority."`
	Geo        geoCmd        `cmd:"" help:"The databases that tell who runs a host, and where."`
	Gate       gateCmd       `cmd:"" help:"Serve Ollama to those who hold a key, and to nobody else."`
	Deploy     deployCmd     `cmd:"" help:"Write a compose file, units, a chart or a proxy's configuration, with the gate in front."`
	Key        keyCmd        `cmd:"" help:"The keys that open the gate."`
	Ledger     ledgerCmd     `cmd:"" help:"Who did what at the gate."`
	Status     statusCmd     `cmd:"" help:"How the running gate is."`
	Trust      trustCmd      `cmd:"" help:"Fetch a gate's own certificate authority, for clients to trust."`
	Keep       storeCmd      `cmd:"" name:"store" help:"Where all that is kept: how it is, and how to move it."`
	Connect    connectCmd    `cmd:"" help:"Put a gate where programs of this machine look for Ollama."`
	Vantage    vantageCmd    `cmd:"" help:"Tell other machines of yours how they look from here."`
	Completion completionCmd `cmd:"" help:"Print the completion script for a shell."`
	Man        manCmd        `cmd:"" help:"Print the manual page."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
}

// What --help of the program says, and the manual page with it.
const (
	summary = `Gatehouse finds Ollama servers that answer strangers, and proves what each lets a stranger do without changing anything on it.`

	started = `Start with:
  gatehouse check                   this machine
  gatehouse scan 192.168.1.0/24     a network of yours
  gatehouse demo                    what it looks like`

	environment = `Any flag can be given in the environment instead: GATEHOUSE_NETWORK_RATE=20 stands for --network-rate=20, and a flag on the command line counts more.`

	exitCodes = `Exit codes:
  0    nothing at or above --fail-on
  1    it could not be done
  2    wrong usage, or not permitted
  3    findings at or above --fail-on
  130  stopped by Ctrl-C`
)

// vars are the words in the help of flags that the code knows.
var vars = kong.Vars{"formats": formatNames(), "deployments": deployments()}

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// streams are what a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("gatehouse"),
		kong.Description(strings.Join([]string{summary, started, environment, exitCodes}, "\n\n")),
		kong.Writers(out, errOut),
		kong.Exit(func(code int) { exited = code }),
		kong.DefaultEnvars("GATEHOUSE"),
		vars,
		kong.ValueFormatter(func(v *kong.Value) string { return v.Help }), // the variables are said once, above
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 80}),
		kong.Bind(streams{in, out, errOut}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.TypeMapper(reflect.TypeFor[uint16](), kong.MapperFunc(portFlag)),
	)
	if err != nil {
		return complain(errOut, err)
	}
	switch { // what people type who do not know a program yet
	case len(args) == 0:
		args = []string{"--help"}
	case args[0] == "help":
		args = append(slices.Clone(args[1:]), "--help")
	case args[0] == "--version":
		args = []string{"version"}
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		return complain(errOut, misused(err))
	}
	return complain(errOut, parsed.Run(parser.Model))
}

// portFlag reads a port, for kong's own words are "a valid 16 bit uint".
func portFlag(c *kong.DecodeContext, v reflect.Value) error {
	var text string
	if err := c.Scan.PopValueInto("port", &text); err != nil {
		return err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("%q is no port from 1 to 65535", text)
	}
	v.SetUint(port)
	return nil
}

// codeError ends the program with a code and without a word, for the word was
// said already.
type codeError int

func (c codeError) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// usageError is a mistake of the caller's, with what to do about it.
type usageError struct {
	err  error
	hint string // names the flag or the field
}

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

func usage(err error, hint string) error { return &usageError{err, hint} }

// failedError is what could not be done, with what may help.
type failedError struct {
	err  error
	hint string // names the flag
}

func (f *failedError) Error() string { return f.err.Error() }
func (f *failedError) Unwrap() error { return f.err }

func failed(err error, hint string) error { return &failedError{err, hint} }

// eachLine puts what before every line of err: each is a mistake of its own.
func eachLine(what string, err error) error {
	var errs []error
	for line := range strings.SplitSeq(err.Error(), "\n") {
		errs = append(errs, errors.New(what+": "+line))
	}
	return errors.Join(errs...)
}

// complain says what went wrong, a line for each mistake and a hint, and returns
// the exit code for it. What may come from outside is made safe for a terminal.
func complain(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	if code, ok := errors.AsType[codeError](err); ok {
		return int(code)
	}
	said := make(map[string]bool)
	for line := range strings.SplitSeq(err.Error(), "\n") { // several mistakes, one a line
		if !said[line] { // a store that is away is met more than once on the way out
			fmt.Fprintf(w, "gatehouse: %s\n", report.Clean(line))
		}
		said[line] = true
	}
	if u, ok := errors.AsType[*usageError](err); ok {
		if u.hint != "" {
			fmt.Fprintf(w, "hint: %s\n", u.hint)
		}
		return exitUsage
	}
	if f, ok := errors.AsType[*failedError](err); ok {
		fmt.Fprintf(w, "hint: %s\n", f.hint)
		return exitFailed
	}
	if hint := storeHint(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
	return exitFailed
}

type versionCmd struct{}

func (versionCmd) Run(s streams) error {
	_, err := fmt.Fprintln(s.out, "gatehouse", versionString())
	return err
}

// versionString is the linker's version, or the module's when it was built by
// go install.
func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}
