package realollama

import "syscall"

// ownGroup has a process lead a group of its own, so that all it starts can be
// ended with it, and has the kernel end it should the tests die first.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
