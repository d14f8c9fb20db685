//go:build unix

package main

import "syscall"

// maxFiles is how many files this process may have open, 0 when that is not known.
func maxFiles() int {
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil {
		return 0
	}
	return int(min(files.Cur, 1<<30))
}
