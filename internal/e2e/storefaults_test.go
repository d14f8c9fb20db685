//go:build linux

package e2e

import (
	"bufio"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// wave300 is a scan of 300 hosts of the simulated internet that is saved.
type wave300 struct {
	t              *testing.T
	net            *internet
	scope, targets string
}

func newWave300(t *testing.T) *wave300 {
	t.Helper()
	dir := t.TempDir()
	w := &wave300{t: t, net: newInternet(t), targets: filepath.Join(dir, "few")}
	w.scope, _ = writeWorld(t, dir)
	w.net.becomes(1)
	var list []string
	for addr, h := range internetAt(1) {
		if h.kind != "silent" {
			list = append(list, addr.String())
		}
	}
	slices.Sort(list)
	if err := os.WriteFile(w.targets, []byte(strings.Join(list[:300], "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *wave300) args(state string) []string {
	return []string{
		"scan", "--scope", w.scope, "--targets", w.targets, "--save", "--state-dir", state, "--seed", "5", "--rate", "100000", "--network-rate", "100000",
		"--concurrency", "50", "--timeout", "10s", "--max-time", "60s", "--fail-on", "never", "--format", "jsonl", "--quiet",
	}
}

func (w *wave300) scan(state string, via ...string) result {
	w.t.Helper()
	return runVia(w.t, slices.Concat(w.net.enter(), via), w.args(state)...)
}

// fails holds a run to one line that says what is wrong and one that says what
// to do, and to the exit code for what could not be done.
func (r result) fails(t *testing.T, code int, what, hint string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
	if r.code != code || len(lines) != 2 || !strings.HasPrefix(lines[0], "gatehouse: ") || !strings.Contains(lines[0], what) ||
		!strings.HasPrefix(lines[1], "hint: ") || !strings.Contains(lines[1], hint) {
		t.Errorf("%v: exit code %d and\n%s\nwant %d, one line with %q and a hint with %q", r, r.code, r.err, code, what, hint)
	}
}

// TestStoreFaults breaks the store of waves in each way that it can break: the
// error says what and what to do, and what was kept is there afterwards.
func TestStoreFaults(t *testing.T) {
	w := newWave300(t)
	whole := filepath.Join(t.TempDir(), "whole")
	r := w.scan(whole)
	r.exits(t, 0)
	kept := len(r.records(t))
	if kept != 300 {
		t.Fatalf("%d hosts, want 300", kept)
	}
	db := filepath.Join(whole, "gatehouse.db")
	copied := func(t *testing.T) (state, path string) {
		state = t.TempDir()
		path = filepath.Join(state, "gatehouse.db")
		data, err := os.ReadFile(db)
		if err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return state, path
	}
	commands := func(state string) []result {
		return []result{w.scan(state), run(t, "wave", "--state-dir", state, "list")}
	}

	t.Run("a file for a folder", func(t *testing.T) {
		state := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(state, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, r := range commands(state) {
			r.fails(t, 2, "state folder: ", "--state-dir")
		}
	})
	t.Run("a later release", func(t *testing.T) {
		state, path := copied(t)
		execute(t, path, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)")
		for _, r := range commands(state) {
			r.fails(t, 1, "made by a later release (version 999,", "newer gatehouse")
		}
	})
	t.Run("locked", func(t *testing.T) {
		state, path := copied(t)
		other, err := sql.Open("sqlite", path+"?_txlock=immediate")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		tx, err := other.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		w.scan(state).fails(t, 1, "another process has held it too long", "--state-dir")
		// Who only reads has no need to wait.
		run(t, "wave", "--state-dir", state, "show").exits(t, 0)
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		w.scan(state).exits(t, 0)
	})
	t.Run("read-only", func(t *testing.T) {
		state, _ := copied(t)
		readOnly := []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"`, state}
		if os.Getuid() != 0 {
			readOnly = slices.Insert(readOnly, 1, "--map-root-user")
		}
		w.scan(state, readOnly...).fails(t, 1, "cannot be written", "writable")
		runVia(t, readOnly, "wave", "--state-dir", state, "drop", "1").fails(t, 1, "cannot be written", "writable")
		again := run(t, "wave", "--state-dir", state, "hosts", "--format", "jsonl", "--fail-on", "never")
		again.exits(t, 0)
		if n := len(again.records(t)); n != kept {
			t.Errorf("%d hosts, want %d", n, kept)
		}
	})
	t.Run("a damaged page", func(t *testing.T) {
		state, path := copied(t)
		page := root(t, path, "said")
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(strings.Repeat("not a page ", 300)), page); err != nil {
			t.Fatal(err)
		}
		// The counts are kept elsewhere, and stay; the hosts cannot be told, and no
		// part of them is passed off as all.
		show := run(t, "wave", "--state-dir", state, "show")
		show.exits(t, 0)
		r := run(t, "wave", "--state-dir", state, "hosts", "--format", "csv", "--out", filepath.Join(state, "out.csv"))
		r.fails(t, 1, "the file is damaged", ".recover")
		if _, err := os.Stat(filepath.Join(state, "out.csv")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("half an output was left: %v", err)
		}
		w.scan(state).fails(t, 1, "the file is damaged", ".recover")
	})
	t.Run("no database", func(t *testing.T) {
		state, path := copied(t)
		if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 600)), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, r := range commands(state) {
			r.fails(t, 1, "the file is damaged, or not a database", "--state-dir")
		}
	})
	t.Run("a full disk", func(t *testing.T) { fullDisk(t, w, dump(t, whole)) })
}

func execute(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// root is where in the file the first page of a table is.
func root(t *testing.T, path, table string) (offset int64) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), "SELECT (rootpage - 1) * (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = $1", table).Scan(&offset); err != nil {
		t.Fatal(err)
	}
	return offset
}

// fullDisk saves a wave on a disk that is too small for it. Then it has room, and
// the same command goes on, with nothing asked again that was told.
func fullDisk(t *testing.T, w *wave300, want []string) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	// A process that has the disk, for as long as the test lasts.
	words := []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs -o size=600k,mode=700 none "$0" && echo mounted && exec cat`, disk}
	holder := exec.CommandContext(t.Context(), w.net.enter()[0], slices.Concat(w.net.enter()[1:], words)...)
	holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	holder.Stderr = os.Stderr
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = holder.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "mounted\n" {
		t.Fatalf("a small disk: %q %v", line, err)
	}
	pid := strconv.Itoa(holder.Process.Pid)
	via := []string{"nsenter", "--target", pid, "--user", "--net", "--mount", "--preserve-credentials", "--"}
	scan := func() result { return runVia(t, via, w.args(disk)...) }

	told := make(map[string]string)
	full := scan()
	full.fails(t, 1, "the disk is full", "make room")
	for line := range strings.Lines(full.out) {
		told[addressOf(t, line)] = line
	}
	if len(told) == 0 || len(told) >= 300 {
		t.Fatalf("%d hosts were told of before the disk was full, want some and not all", len(told))
	}
	// As before, but for a line that says that it goes on, and nothing lost by it.
	full = scan()
	first, rest, _ := strings.Cut(full.err, "\n")
	if full.err = rest; !strings.Contains(first, "going on with wave 1") {
		t.Errorf("on a full disk still: %q", first)
	}
	full.fails(t, 1, "the disk is full", "make room")

	enlarge := exec.CommandContext(t.Context(), via[0], slices.Concat(via[1:], []string{"mount", "-o", "remount,size=64m", disk})...)
	if said, err := enlarge.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	r := scan()
	r.exits(t, 0)
	final := make(map[string]string)
	for line := range strings.Lines(r.out) {
		final[addressOf(t, line)] = line
	}
	if len(final) != 300 {
		t.Errorf("%d hosts, want 300", len(final))
	}
	for addr, line := range told {
		if final[addr] != line {
			t.Errorf("%s was told of as kept, and is another thing now:\n%s\n%s", addr, line, final[addr])
		}
	}
	// The rows are those of a wave that had room, read where the disk is.
	copied := filepath.Join(t.TempDir(), "gatehouse.db")
	data, err := exec.CommandContext(t.Context(), via[0], slices.Concat(via[1:], []string{"cat", filepath.Join(disk, "gatehouse.db")})...).Output()
	if err == nil {
		err = os.WriteFile(copied, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := dump(t, filepath.Dir(copied)); !slices.Equal(got, want) {
		t.Errorf("%d rows, want the %d of a wave that had room", len(got), len(want))
	}
}
