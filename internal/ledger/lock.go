package ledger

import (
	"errors"
	"os"
	"path/filepath"

	"gatehouse/internal/flock"
)

// lockDir keeps other processes from writing to the ledger in dir. The lock
// ends with the process, however that ends.
func lockDir(dir string) (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock.Lock(f); err != nil {
		if errors.Is(err, flock.ErrHeld) {
			err = ErrInUse
		}
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}
