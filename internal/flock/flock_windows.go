package flock

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// Lock takes the lock on f, or says at once that it cannot: the error is
// ErrHeld when another process has it, or this one by another opening of the
// file. The lock ends when f is closed, and with the process, however that ends.
func Lock(f *os.File) error {
	// Windows keeps others from reading what is locked, so the byte that is
	// locked is one that no file reaches.
	far := windows.Overlapped{Offset: 0xffff_fffe, OffsetHigh: 0x7fff_ffff}
	err := windows.LockFileEx(windows.Handle(f.Fd()),
		windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &far)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrHeld
	}
	return os.NewSyscallError("LockFileEx", err)
}

// Open opens what a lock on the folder dir is taken on: a file in it, for
// Windows locks no folders.
func Open(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
}
