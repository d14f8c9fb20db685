// Package flock keeps other processes away from a file or a folder, by the
// advisory lock that the system has for it. It never waits, and never writes.
package flock

import "errors"

// ErrHeld says that somebody else holds the lock.
var ErrHeld = errors.New("locked by another process")
