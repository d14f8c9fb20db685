//go:build unix

package report

import (
	"os/exec"
	"syscall"
)

// together has the processes that cmd starts form a group, and returns what ends
// them all: Chromium is many.
func together(cmd *exec.Cmd) (kill func() error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
