//go:build unix

package harden

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// doomed is what a process of its own is to do, and at which point it is killed.
type doomed struct {
	Root, Dir string
	Steps     []Step // to apply; nil to undo
	Resume    bool
	Point     int // 1 is the first; 0 is never
}

const doomedEnv = "GATEHOUSE_HARDEN_DOOMED"

func TestMain(m *testing.M) {
	if file := os.Getenv(doomedEnv); file != "" {
		if err := meetFate(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// meetFate is the life of the process that is killed: no defer runs, no buffer is
// written, as when the power goes.
func meetFate(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var d doomed
	if err := json.Unmarshal(text, &d); err != nil {
		return err
	}
	k := &Keeper{Machine: Machine{OS: "linux", Root: d.Root}, Dir: d.Dir, Do: noted(d.Dir)}
	n := 0
	k.at = func(point string) {
		if n++; n == d.Point {
			fmt.Println(point)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	switch {
	case d.Resume:
		err = k.Resume(context.Background())
	case d.Steps != nil:
		err = k.Apply(context.Background(), &Plan{Steps: d.Steps})
	default:
		return k.Undo(context.Background())
	}
	if err == nil {
		err = k.Finish()
	}
	return err
}

// noted does commands by noting them.
func noted(dir string) func(context.Context, []string, bool) error {
	return func(_ context.Context, words []string, _ bool) error {
		f, err := os.OpenFile(filepath.Join(filepath.Dir(dir), "commands"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(strings.Join(words, " ") + "\n")
		return errors.Join(err, f.Close())
	}
}

// kill runs d in a process; point is where it was killed, "" when it came to its end.
func kill(t *testing.T, d doomed) (point string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fate")
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), doomedEnv+"="+file, "GORACE=atexit_sleep_ms=0")
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err == nil {
		return ""
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		t.Fatalf("%v: %s", err, errOut.String())
	}
	return strings.TrimSpace(string(out))
}

// TestKill kills apply and undo at every point of theirs. Each file is the old or
// the new one, the journal tells, and both ways lead on: undo gives back every byte,
// and going on ends where an apply that nobody disturbed does.
func TestKill(t *testing.T) {
	for _, name := range []string{"profile"} {
		t.Run(name, func(t *testing.T) {
			archive := fixtures(t)[name]
			for n := 1; ; n++ {
				// Killed on the way there, then back.
				f, steps, before, d := doom(t, archive, name)
				d.Point = n
				point := kill(t, d)
				whole(t, f, steps, point)
				k := &Keeper{Machine: f.machine, Dir: d.Dir, Do: noted(d.Dir)}
				if err := k.Undo(t.Context()); err != nil && !(errors.Is(err, ErrNothing) && n <= 5) {
					t.Fatalf("killed at %q, it cannot be taken back: %v", point, err)
				}
				if left := differ(before, tree(t, f.machine.Root)); len(left) > 0 {
					t.Fatalf("killed at %q and taken back, these are not as they were: %q", point, left)
				}

				// Killed on the way there, then on.
				f, steps, _, d = doom(t, archive, name)
				d.Point = n
				kill(t, d)
				k = &Keeper{Machine: f.machine, Dir: d.Dir, Do: noted(d.Dir)}
				if r, err := k.Pending(); err != nil {
					t.Fatal(err)
				} else if r != nil {
					if err := k.Apply(t.Context(), &Plan{Steps: steps}); !errors.Is(err, ErrInterrupted) {
						t.Fatalf("killed at %q, a new run begins over it: %v", point, err)
					}
					if err := k.Resume(t.Context()); err != nil {
						t.Fatalf("killed at %q, it does not go on: %v", point, err)
					}
				} else if point != "" {
					if err := k.Apply(t.Context(), &Plan{Steps: steps}); err != nil {
						t.Fatal(err)
					}
				}
				for _, s := range steps {
					if s.File == nil {
						continue
					}
					if now, err := k.now(s.File.Path); err != nil || !now.equal(s.File.After, true) {
						t.Fatalf("killed at %q and gone on, %s is not as planned: %v", point, s.File.Path, err)
					}
				}

				// Killed on the way back, twice, then back.
				f, steps, before, d = doom(t, archive, name)
				kill(t, d)
				d.Steps, d.Point = nil, n
				onTheWay := kill(t, d)
				whole(t, f, steps, onTheWay)
				k = &Keeper{Machine: f.machine, Dir: d.Dir, Do: noted(d.Dir)}
				if err := k.Undo(t.Context()); err != nil && (onTheWay != "" && onTheWay != "undone" || !errors.Is(err, ErrNothing)) {
					t.Fatalf("killed at %q, it is not taken back: %v", onTheWay, err)
				}
				if left := differ(before, tree(t, f.machine.Root)); len(left) > 0 {
					t.Fatalf("killed on the way back at %q, these are not as they were: %q", onTheWay, left)
				}
				if point == "" && onTheWay == "" {
					t.Logf("killed at %d points", n-1)
					if n < 12 {
						t.Errorf("only %d points", n-1)
					}
					return
				}
			}
		})
	}
}

// doom opens a fixture with a plan for it.
func doom(t *testing.T, archive *txtar.Archive, name string) (f *fixture, steps []Step, before map[string]string, d doomed) {
	t.Helper()
	f = openFixture(t, archive, name)
	_, p := f.judge()
	dir := filepath.Join(t.TempDir(), "runs")
	p.Steps = append(p.Steps, Step{Run: &Command{Do: []string{"systemctl", "daemon-reload"}, Again: true}}) // with every kind of step in it
	return f, p.Steps, tree(t, f.machine.Root), doomed{Root: f.machine.Root, Dir: dir, Steps: p.Steps}
}

// whole checks that each file of the steps is the old or the new one.
func whole(t *testing.T, f *fixture, steps []Step, point string) {
	t.Helper()
	k := &Keeper{Machine: f.machine}
	for i, s := range steps {
		if s.File == nil {
			continue
		}
		now, err := k.now(s.File.Path)
		if err != nil || !now.equal(s.File.After, true) && !now.equal(s.File.Before, s.File.Is) {
			t.Fatalf("killed at %q, %s of step %s is neither old nor new: %v", point, s.File.Path, strconv.Itoa(i), err)
		}
	}
}

// TestSomebodyElse: what was changed since is left alone, and told.
func TestSomebodyElse(t *testing.T) {
	f, steps, _, d := doom(t, fixtures(t)["profile"], "profile")
	k := &Keeper{Machine: f.machine, Dir: d.Dir, Do: noted(d.Dir)}
	if err := k.Apply(t.Context(), &Plan{Steps: steps}); err != nil {
		t.Fatal(err)
	}
	if err := k.Finish(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(f.machine.Root, "home/anna/.bashrc")
	if err := os.WriteFile(file, []byte("# mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := k.Undo(t.Context()); err == nil || !strings.Contains(err.Error(), "/home/anna/.bashrc: it was changed since") {
		t.Errorf("undo over another's change: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "# mine\n" {
		t.Errorf("undo overwrites another's change: %q, %v", text, err)
	}
	if err := k.Apply(t.Context(), &Plan{Steps: steps}); err == nil || !strings.Contains(err.Error(), "somebody else has changed it") {
		t.Errorf("a plan made before another's change: %v", err)
	}
}

// TestCuts: a plan that could end the session it is called from is told.
func TestCuts(t *testing.T) {
	table := Step{File: &Change{Path: tableFile, After: rules([]uint16{2222, Port})}}
	tunnel := Step{Run: &Command{Do: []string{"systemctl", "restart", "cloudflared"}}}
	for _, c := range []struct {
		session string
		step    Step
		cuts    bool
	}{
		{"192.168.1.5 50000 192.168.1.20 22", table, false},
		{"192.168.1.5 50000 192.168.1.20 2222", table, true},
		{"127.0.0.1 50000 127.0.0.1 2222", table, false},
		{"127.0.0.1 50000 127.0.0.1 22", tunnel, true},
		{"192.168.1.5 50000 192.168.1.20 22", tunnel, false},
		{"", table, false},
	} {
		if got := (&Plan{Steps: []Step{c.step}}).Cuts(c.session); (got != "") != c.cuts {
			t.Errorf("session %q: %q", c.session, got)
		}
	}
}
