package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"gatehouse/bench/figures"
)

// step is one command of the whole run.
type step struct {
	Name  string // of its file of figures
	Bench string // the section of the page that it fills
	Dir   string // of the command
	Args  string
	Quick string        // instead of Args in a quick run
	Limit time.Duration // for the whole of it; a quick run gets a third
}

// measurement is one run over the steps.
type measurement struct {
	quick bool
	only  string
}

// record is what is kept of a run beside its figures.
type record struct {
	Machine map[string]any `json:"machine"`
	Began   time.Time      `json:"began"`
	Quick   bool           `json:"quick,omitempty"`
	Steps   []outcome      `json:"steps"`
}

// outcome is how one step ended.
type outcome struct {
	Name    string  `json:"name"`
	Bench   string  `json:"bench"`
	Command string  `json:"command"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

const recordFile = "run.json"

// run runs the steps one after the other and leaves the figures of each in dir.
// It goes on after a step that failed, and returns the failures together.
func (m measurement) run(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	list := plan
	rec := record{Machine: figures.Here(), Began: time.Now().UTC().Truncate(time.Second), Quick: m.quick}
	if m.only != "" {
		list = slices.DeleteFunc(slices.Clone(plan), func(s step) bool { return s.Name != m.only })
		if len(list) == 0 {
			return fmt.Errorf("no step is called %q: one of %s", m.only, strings.Join(names(plan), ", "))
		}
		if before, err := readRecord(dir); err == nil {
			rec.Steps = before.Steps
		}
	}
	var failures []error
	for i, s := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "== %d of %d: %s\n", i+1, len(list), s.command(m.quick))
		began := time.Now()
		err := s.run(ctx, m.quick, filepath.Join(dir, s.Name+".json"))
		o := outcome{Name: s.Name, Bench: s.Bench, Command: s.command(m.quick), Seconds: time.Since(began).Round(time.Second).Seconds()}
		if err != nil {
			o.Error = clean(err.Error())
			failures = append(failures, fmt.Errorf("%s: %w", s.Name, err))
			fmt.Fprintf(os.Stderr, "== %s failed: %v\n", s.Name, err)
		}
		if at := slices.IndexFunc(rec.Steps, func(before outcome) bool { return before.Name == s.Name }); at >= 0 {
			rec.Steps[at] = o
		} else {
			rec.Steps = append(rec.Steps, o)
		}
	}
	text, err := json.MarshalIndent(rec, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(errors.Join(failures...), os.WriteFile(filepath.Join(dir, recordFile), append(text, '\n'), 0o644))
}

func names(list []step) (all []string) {
	for _, s := range list {
		all = append(all, s.Name)
	}
	return all
}

func (s step) args(quick bool) []string {
	if quick {
		return strings.Fields(s.Quick)
	}
	return strings.Fields(s.Args)
}

// command is what to type for this step alone.
func (s step) command(quick bool) string {
	return strings.Join(append([]string{"go run " + s.Dir}, s.args(quick)...), " ")
}

// run runs the step and puts its figures at path. What was there before is of
// another run and goes, unless the whole run was told to stop.
func (s step) run(ctx context.Context, quick bool, path string) error {
	kept, failed := s.measure(ctx, quick)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case kept != nil: // what it measured until it failed, too
		return cmp.Or(failed, kept.Write(path))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(failed, err)
	}
	return failed
}

// measure runs the step's command. Figures and an error are both returned when
// it failed after it had written some.
func (s step) measure(ctx context.Context, quick bool) (*figures.File, error) {
	tmp, err := os.MkdirTemp("", "gatehouse-report")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	program, out := filepath.Join(tmp, "bench"), filepath.Join(tmp, "figures.json")
	limit := s.Limit
	if quick {
		limit /= 3
	}
	if text, err := exec.CommandContext(ctx, "go", "build", "-o", program, s.Dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("does not build: %s", wrong(text, err))
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(s.args(quick), "-json", out)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has namespaces and processes to take down
	cmd.WaitDelay = 20 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = os.Stderr, io.MultiWriter(os.Stderr, &said)
	ended := cmd.Run()
	switch {
	case ended == nil:
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		ended = fmt.Errorf("not done after %s", limit)
	default:
		ended = errors.New(wrong(said.Bytes(), ended))
	}
	kept, err := readFile(out)
	if err != nil {
		return nil, cmp.Or(ended, fmt.Errorf("its figures: %w", err))
	}
	for what, line := range kept.Commands {
		kept.Commands[what] = clean(line)
	}
	return kept, ended
}

// wrong is what a command said was wrong: its last line, or its first when its
// flags were or when it panicked, as much follows then.
func wrong(text []byte, err error) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	line := lines[len(lines)-1]
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 {
		line = lines[0]
	}
	return cmp.Or(strings.TrimSpace(line), err.Error())
}

var temporary = regexp.MustCompile(regexp.QuoteMeta(strings.TrimSuffix(os.TempDir(), "/")) + `/[^\s"'/]+/?`)

// clean takes from a command line what differs from run to run: where its files
// were.
func clean(line string) string {
	if dir, err := os.Getwd(); err == nil {
		line = strings.ReplaceAll(line, dir+"/", "./")
	}
	return temporary.ReplaceAllString(line, "")
}

func readFile(path string) (*figures.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return figures.Read(f)
}

func readRecord(dir string) (rec record, err error) {
	text, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(text, &rec); err != nil {
		return rec, fmt.Errorf("%s: %w", recordFile, err)
	}
	return rec, nil
}
