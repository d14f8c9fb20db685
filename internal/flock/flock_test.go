package flock_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gatehouse/internal/flock"
)

func TestLock(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("kept\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (*os.File, error){
		"file":   func() (*os.File, error) { return os.OpenFile(path, os.O_RDWR, 0) },
		"folder": func() (*os.File, error) { return flock.Open(dir) },
	} {
		t.Run(name, func(t *testing.T) {
			first, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer first.Close()
			second, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			if err := flock.Lock(first); err != nil {
				t.Fatalf("a lock that is free: %v", err)
			}
			if err := flock.Lock(second); !errors.Is(err, flock.ErrHeld) {
				t.Errorf("a lock that is held: %v, want %v", err, flock.ErrHeld)
			}
			// Who does not ask for the lock reads as ever.
			if text, err := os.ReadFile(path); err != nil || string(text) != "kept\n" {
				t.Errorf("read beside the lock: %q, %v", text, err)
			}
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			if err := flock.Lock(second); err != nil {
				t.Errorf("a lock that was let go: %v", err)
			}
		})
	}
}

func TestClosed(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := flock.Lock(f); err == nil || errors.Is(err, flock.ErrHeld) {
		t.Errorf("a closed file: %v, want an error that is not %v", err, flock.ErrHeld)
	}
}
