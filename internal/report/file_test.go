package report_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gatehouse/internal/report"
)

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out.csv")
	if err := report.WriteFile(path, text("one")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := report.WriteFile(path, text("two")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); got != "two" {
		t.Errorf("holds %q", got)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, want the one it had", info.Mode())
	}
	if got := names(t, dir); got != "out.csv" {
		t.Errorf("left behind: %s", got)
	}
}

func TestWriteFileIsCompleteOrAbsent(t *testing.T) {
	lost := errors.New("disk is gone")
	half := func(w io.Writer) error {
		io.WriteString(w, strings.Repeat("x", 1<<20))
		return lost
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "out.json")
	if err := report.WriteFile(path, half); !errors.Is(err, lost) || !strings.Contains(err.Error(), path) {
		t.Errorf("err %v", err)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("left behind: %s", got)
	}
	if err := report.WriteFile(path, text("old")); err != nil {
		t.Fatal(err)
	}
	if err := report.WriteFile(path, half); !errors.Is(err, lost) {
		t.Errorf("err %v", err)
	}
	if got := read(t, path); got != "old" {
		t.Errorf("half a file took the place of the old: %.20q", got)
	}
	func() {
		defer func() { recover() }()
		report.WriteFile(path, func(io.Writer) error { panic("oops") })
	}()
	if got := names(t, dir); got != "out.json" {
		t.Errorf("left behind: %s", got)
	}
}

func TestWriteFileToAFullDevice(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full here")
	}
	err := report.WriteFile("/dev/full", text(strings.Repeat("x", 1<<20)))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("err %v, want no space left on device", err)
	}
	if got, want := err.Error(), "write /dev/full: no space left on device"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if info, err := os.Stat("/dev/full"); err != nil || info.Mode().IsRegular() {
		t.Fatal("the device was replaced by a file")
	}
}

func TestWriteFileWhereItMayNot(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "nowhere", "out.csv")
	err := report.WriteFile(missing, text("x"))
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != "write "+missing+": no such file or directory" {
		t.Errorf("err %v", err)
	}
	if err := report.WriteFile(dir, text("x")); err == nil {
		t.Error("wrote over a folder")
	}
	if os.Geteuid() == 0 {
		t.Log("root may write anywhere: a read-only folder cannot be tried")
		return
	}
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := report.WriteFile(filepath.Join(closed, "out.csv"), text("x")); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("err %v", err)
	}
}

func TestWriteFileThroughASymbolicLink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := report.WriteFile(link, text("new")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Error("the link is gone")
	}
	if got := read(t, target); got != "new" {
		t.Errorf("the target holds %q", got)
	}
}
