//go:build unix

package flock

import (
	"errors"
	"os"
	"syscall"
)

// Lock takes the lock on f, or says at once that it cannot: the error is
// ErrHeld when another process has it, or this one by another opening of the
// file. The lock ends when f is closed, and with the process, however that ends.
func Lock(f *os.File) error {
	for {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return ErrHeld
		default:
			return os.NewSyscallError("flock", err)
		}
	}
}

// Open opens what a lock on the folder dir is taken on: the folder itself.
func Open(dir string) (*os.File, error) { return os.Open(dir) }
