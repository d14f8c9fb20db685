//go:build linux

// Package e2e tests Gatehouse by its front door: the program is built, run, and
// believed by what it prints and how it exits. What it looks at are real Ollamas
// and simulated hosts on this machine's loopback.
package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

// gatehouse is the program under test.
var gatehouse string

// patience is how long one run may take before the test gives up on it. It
// bounds a hang and measures nothing.
const patience = 90 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(scalesEnv) != "" {
		os.Exit(scales(os.Args[1:]))
	}
	os.Exit(build(m))
}

// build makes the program as `make build` does and runs the tests.
func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gatehouse-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	gatehouse = filepath.Join(dir, "gatehouse")
	cmd := exec.Command("go", "build", "-trimpath", "-o", gatehouse, "gatehouse/cmd/gatehouse")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %v\n%s", cmd, err, out)
		return 1
	}
	return m.Run()
}

// result is how one run of the program went.
type result struct {
	args     []string
	code     int // exit code
	out, err string
	took     time.Duration
	peak     int64 // the most memory it held at once, bytes
}

// run runs the program to its end.
func run(t *testing.T, args ...string) result {
	t.Helper()
	return runVia(t, nil, args...)
}

// runVia runs the program by way of another, such as one that enters a network
// namespace first.
func runVia(t *testing.T, via []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	weight, weightOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer weight.Close()

	cmd := exec.CommandContext(ctx, self, slices.Concat(via, []string{gatehouse}, args)...)
	// Nothing of the caller's environment changes what is tested.
	cmd.Env = []string{scalesEnv + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir(), noRest}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &out, &errOut, []*os.File{weightOut}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

	start := time.Now()
	err = cmd.Start()
	weightOut.Close()
	if err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	r := result{args: args, code: cmd.ProcessState.ExitCode(), out: out.String(), err: errOut.String(), took: time.Since(start)}
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || !exit.Exited()) {
		t.Fatalf("%v: %v\n%s", r, err, r.err)
	}
	peak := make([]byte, 8)
	if _, err := io.ReadFull(weight, peak); err != nil {
		t.Fatalf("%v: weigh: %v\n%s", r, err, r.err)
	}
	r.peak = int64(binary.LittleEndian.Uint64(peak))
	return r
}

func (r result) String() string { return "gatehouse " + strings.Join(r.args, " ") }

// exits fails the test unless the program ended with code.
func (r result) exits(t *testing.T, code int) {
	t.Helper()
	if r.code != code {
		t.Fatalf("%v: exit code %d, want %d\n%s%s", r, r.code, code, r.out, r.err)
	}
}

// scalesEnv has this test program weigh the program that its arguments name.
const scalesEnv = "E2E_SCALES"

// noRest keeps a program with the race detector from waiting a second before it
// exits, in case other goroutines have races left to show.
const noRest = "GORACE=atexit_sleep_ms=0"

// scales runs a program and writes to file 3 how much memory it held at most.
// It is a process of its own because Linux counts into a program's peak what its
// parent held when it started it (exec_mmap, fs/exec.c), and the test with its
// thousands of simulated hosts holds more than any scan may.
func scales(args []string) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10 // KiB on Linux
	if err := binary.Write(os.NewFile(3, "weight"), binary.LittleEndian, uint64(peak)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// record is one line of the output, by the names that are a contract.
type record struct {
	Target   string   `json:"target"`
	Address  string   `json:"address"`
	Port     uint16   `json:"port"`
	Path     string   `json:"path"`
	TLS      *tls     `json:"tls"`
	Outcome  string   `json:"outcome"`
	Reason   string   `json:"reason"`
	Identity product  `json:"identity"`
	Powers   powers   `json:"powers"`
	Models   []model  `json:"models"`
	Running  []loaded `json:"running"`
	Findings []struct {
		ID       string   `json:"id"`
		Severity string   `json:"severity"`
		Evidence []string `json:"evidence"`
		Remedy   string   `json:"remedy"`
	} `json:"findings"`
}

type tls struct {
	Version   string    `json:"version"`
	Names     []string  `json:"names"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"`
	Invalid   string    `json:"invalid"`
}

type product struct {
	Product string `json:"product"`
	Version string `json:"version"`
}

type powers struct {
	Hello   string `json:"hello"`
	Read    string `json:"read"`
	Infer   string `json:"infer"`
	Manage  string `json:"manage"`
	Account string `json:"account"`
}

type model struct {
	Name         string    `json:"name"`
	Digest       string    `json:"digest"`
	Size         int64     `json:"size_bytes"`
	Parameters   string    `json:"parameter_size"`
	Quantization string    `json:"quantization"`
	Family       string    `json:"family"`
	Modified     time.Time `json:"modified_at"`
}

type loaded struct {
	Name    string    `json:"name"`
	Size    int64     `json:"size_bytes"`
	VRAM    int64     `json:"vram_bytes"`
	Expires time.Time `json:"expires_at"`
}

// ids are the findings of r in the order they are told.
func (r record) ids() []string {
	ids := []string{}
	for _, f := range r.Findings {
		ids = append(ids, f.ID)
	}
	return ids
}

// records reads what `--format jsonl` printed.
func (r result) records(t *testing.T) []record {
	t.Helper()
	var all []record
	for line := range strings.Lines(r.out) {
		var rec record
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatalf("%v: %v in %s", r, err, line)
		}
		all = append(all, rec)
	}
	return all
}

// record reads the one line that `--format jsonl` printed.
func (r result) record(t *testing.T) record {
	t.Helper()
	all := r.records(t)
	if len(all) != 1 {
		t.Fatalf("%v: %d records, want one\n%s%s", r, len(all), r.out, r.err)
	}
	return all[0]
}

// report is what `--format json` prints.
type report struct {
	Summary struct {
		Places   uint64            `json:"places"`
		Visited  uint64            `json:"visited"`
		Denied   uint64            `json:"denied"`
		Outcomes map[string]uint64 `json:"outcomes"`
		Severity map[string]uint64 `json:"severities"`
		Stopped  string            `json:"stopped"`
	} `json:"summary"`
	Hosts []record `json:"hosts"`
}

func (r result) report(t *testing.T) report {
	t.Helper()
	var rep report
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil {
		t.Fatalf("%v: %v\n%s", r, err, r.err)
	}
	return rep
}
