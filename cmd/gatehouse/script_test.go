package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"github.com/rogpeppe/go-internal/testscript"

	"gatehouse/internal/ollama/ollamatest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gatehouse": main})
}

// TestScripts runs testdata/*.txtar: the command line as its users have it.
// What the scripts can say beyond testscript's own commands is in commands.
func TestScripts(t *testing.T) {
	bin := built(t)
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		Cmds:               commands,
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, ".state"))
			e.Setenv("PROGRAM", filepath.Join(bin, "gatehouse"))
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
			return nil
		},
	})
}

// built builds the program and returns the folder it is in. The copy of the test
// binary that testscript would have the scripts run has the race detector's slow
// start; the tests of signals and terminals run that one.
func built(t *testing.T) (bin string) {
	t.Helper()
	bin = t.TempDir()
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "gatehouse"), ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"street": street,
	"exits":  exits,
	"hint":   hint,
	"width":  checkWidth,
}

// street opens simulated servers on loopback: "street a=VARIANT b=VARIANT". Each
// variable becomes the server as a target names it, and a_addr and a_port its
// parts. In the end no server may have been harmed.
func street(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: street name=variant...")
	}
	var houses []ollamatest.House
	for _, arg := range args {
		_, variant, _ := strings.Cut(arg, "=")
		server := ollamatest.Variant(variant)
		if server == nil {
			ts.Fatalf("no variant %q", variant)
		}
		houses = append(houses, ollamatest.House{Server: server})
	}
	st, err := ollamatest.Open(houses...)
	ts.Check(err)
	ts.Defer(func() {
		st.Close()
		if harm := st.Harm(); len(harm) > 0 {
			ts.Fatalf("a server was harmed:\n%s", strings.Join(harm, "\n"))
		}
	})
	for i, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		h := st.Houses[i]
		ts.Setenv(name, targetOf(h))
		ts.Setenv(name+"_addr", h.Addr.Addr().String())
		ts.Setenv(name+"_port", strconv.Itoa(int(h.Addr.Port())))
	}
}

// exits runs a command that has to end with the code: "exits 2 gatehouse scan".
// Whatever it is, what it writes is no stack trace.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program arg...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
	for _, output := range []string{ts.ReadFile("stdout"), ts.ReadFile("stderr")} {
		if trace.MatchString(output) {
			ts.Fatalf("a stack trace")
		}
	}
}

// trace is how Go begins to tell of a crash or of a data race.
var trace = regexp.MustCompile(`(?m)^(panic: |fatal error: |goroutine \d+ |WARNING: DATA RACE)`)

// hint checks that standard error ends with a hint that holds the text given,
// after at least one line that says what is wrong.
func hint(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hint text")
	}
	lines := strings.Split(strings.TrimSuffix(ts.ReadFile("stderr"), "\n"), "\n")
	last := len(lines) - 1
	if !strings.HasPrefix(lines[last], "hint: ") || !strings.Contains(lines[last], args[0]) {
		ts.Fatalf("no hint with %q", args[0])
	}
	if wrong := lines[:last]; len(wrong) == 0 || slices.ContainsFunc(wrong, func(l string) bool { return !strings.HasPrefix(l, "gatehouse: ") }) {
		ts.Fatalf("the lines before the hint do not say what is wrong")
	}
}

// checkWidth checks that no line of a file is wider than so many columns:
// "width 80 stdout".
func checkWidth(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: width columns file")
	}
	most, err := strconv.Atoi(args[0])
	ts.Check(err)
	text := ts.ReadFile(args[1])
	if strings.TrimSpace(text) == "" {
		ts.Fatalf("%s is empty", args[1])
	}
	if line, wide := widest(text); wide > most {
		ts.Fatalf("%d columns: %s", wide, line)
	}
}

// widest returns the line that takes the most columns on a terminal.
func widest(text string) (line string, columns int) {
	for l := range strings.Lines(text) {
		l = strings.TrimRight(l, "\r\n")
		if w := ansi.StringWidth(l); w > columns {
			line, columns = l, w
		}
	}
	return line, columns
}
