package store

import (
	"errors"
	"os"
	"time"

	"gatehouse/internal/flock"
)

// lockDir keeps other processes that open a store in dir waiting. The lock ends
// with the process, however that ends. It is on the folder, for SQLite's own
// locks are on the file.
func lockDir(dir string) (unlock func() error, err error) {
	f, err := flock.Open(dir)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	return lock(f, timeout, errors.New("another process is opening it, and takes too long"))
}

// lockFile keeps other processes from having the file at path, which it makes
// and which stays. It does not wait.
func lockFile(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	return lock(f, 0, ErrInUse)
}

func lock(f *os.File, wait time.Duration, late error) (unlock func() error, err error) {
	for end := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		switch err = flock.Lock(f); {
		case err == nil:
			return f.Close, nil
		case !errors.Is(err, flock.ErrHeld):
			return nil, errors.Join(err, f.Close())
		case time.Now().After(end):
			return nil, errors.Join(late, f.Close())
		}
	}
}
