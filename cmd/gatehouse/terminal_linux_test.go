package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/sys/unix"

	"gatehouse/internal/ollama/ollamatest"
)

// terminal is gatehouse at work on a terminal: standard output and standard
// error are the same pseudo-terminal.
type terminal struct {
	t    *testing.T
	cmd  *exec.Cmd
	side *os.File // where what it writes comes out
	text strings.Builder
}

// onTerminal starts gatehouse on a terminal of so many columns.
func onTerminal(t *testing.T, columns uint16, env []string, args ...string) *terminal {
	t.Helper()
	side, tty := openTerminal(t, columns)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	term := &terminal{t: t, cmd: exec.CommandContext(ctx, "gatehouse", args...), side: side}
	term.cmd.Stdout, term.cmd.Stderr = tty, tty
	term.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "TERM=xterm-256color", "NO_COLOR=")
	term.cmd.Env = append(term.cmd.Env, env...)
	if err := term.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = term.cmd.Process.Kill()
		_ = term.cmd.Wait()
	})
	_ = tty.Close() // the process has it
	return term
}

// openTerminal makes a pseudo-terminal (pty(7)).
func openTerminal(t *testing.T, columns uint16) (side, tty *os.File) {
	t.Helper()
	side, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = side.Close() })
	fd := int(side.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	return side, tty
}

// shows waits until all that came so far matches the pattern.
func (term *terminal) shows(pattern string) {
	term.t.Helper()
	want := regexp.MustCompile(pattern)
	for b := make([]byte, 4096); !want.MatchString(term.text.String()); {
		n, err := term.side.Read(b)
		term.text.Write(b[:n])
		if err != nil {
			term.t.Fatalf("the terminal does not show %s, but:\n%s", pattern, term.text.String())
		}
	}
}

// wait waits for the end and returns the exit code and everything that came.
func (term *terminal) wait() (code int, text string) {
	term.t.Helper()
	_, err := io.Copy(&term.text, term.side)
	if err != nil && !errors.Is(err, syscall.EIO) { // how Linux says that nobody has the terminal open any more
		term.t.Fatal(err)
	}
	_ = term.cmd.Wait()
	return term.cmd.ProcessState.ExitCode(), strings.ReplaceAll(term.text.String(), "\r\n", "\n")
}

// TestTerminal: on a terminal of 80 columns, or fewer, no line is broken by the
// terminal, and colour comes only where it is wanted.
func TestTerminal(t *testing.T) {
	t.Parallel()
	var targets []string
	for _, name := range []string{"ollama/busy-h100", "ollama/tls", "ollama/under-prefix", "hostile/terminal-escapes", "hostile/markup", "honeypot/python-canned"} {
		st, err := ollamatest.One(ollamatest.Variant(name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(st.Close)
		targets = append(targets, targetOf(st.Houses[0]))
	}
	for _, c := range []struct {
		name    string
		columns uint16
		args    []string
		code    int
	}{
		{"street", 80, append([]string{"scan", "--prove", "--details"}, targets...), exitFindings},
		{"street, narrow", 60, append([]string{"scan"}, targets...), exitFindings},
		{"street, wide", 132, append([]string{"scan"}, targets...), exitFindings},
		{"one", 80, []string{"scan", "--prove", "--details", targets[0]}, exitFindings},
		{"rude", 80, []string{"scan", "--details", targets[3]}, exitFindings},
		{"demo", 80, []string{"demo"}, exitOK},
		{"usage", 80, []string{"scan", "\x1b[31m"}, exitUsage},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			code, text := onTerminal(t, c.columns, nil, c.args...).wait()
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for line := range strings.Lines(text) {
				// What a carriage return went back over is gone.
				line = line[strings.LastIndex(line, "\r")+1:]
				if w := ansi.StringWidth(strings.TrimRight(line, "\n")); w > int(c.columns) && c.name != "usage" {
					t.Errorf("%d columns on a terminal of %d: %q", w, c.columns, line)
				}
			}
			// All there may be of escapes: colour, and clearing the progress line.
			if rest := regexp.MustCompile(`\x1b\[[0-9;]*m|\r\x1b\[K`).ReplaceAllString(text, ""); strings.ContainsAny(rest, "\x1b\x07\x00\r") {
				t.Errorf("an escape that is not ours: %q", rest)
			}

			if coloured := strings.Contains(text, "\x1b[1m"); coloured != (c.code != exitUsage) {
				t.Errorf("colour is %v", coloured)
			}
		})
	}
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		if _, text := onTerminal(t, 80, []string{env}, "scan", "-q", targets[0]).wait(); strings.Contains(text, "\x1b") {
			t.Errorf("%s: escapes all the same: %q", env, text)
		}
	}
}

// TestProgress: while a scan goes on, the last line of the terminal says how
// far it is; in the end it is gone. With --quiet there is none.
func TestProgress(t *testing.T) {
	t.Parallel()
	h := hold(t, 2)
	term := onTerminal(t, 80, nil, "scan", h.targets[0], h.targets[1])
	h.wait(t, 2)
	term.shows(`\r\x1b\[K[^\r\n]* 0 of 2  0 open  0 found`)
	h.release()
	code, text := term.wait()
	if code != exitFindings {
		t.Errorf("exit code %d, want %d", code, exitFindings)
	}
	if !regexp.MustCompile(` of 2  [^\r\n]*\r\x1b\[K\n`).MatchString(text) {
		t.Errorf("the progress line is not cleared before the report: %q", text)
	}

	h = hold(t, 1)
	term = onTerminal(t, 80, nil, "scan", "--quiet", h.targets[0])
	h.wait(t, 1)
	h.release()
	if _, text := term.wait(); strings.Contains(text, "\r\x1b[K") {
		t.Errorf("--quiet shows progress: %q", text)
	}
}
