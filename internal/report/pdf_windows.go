package report

import "os/exec"

// together returns what ends cmd. On Windows its own children end by themselves
// when Chromium's first process is gone.
func together(cmd *exec.Cmd) (kill func() error) {
	return func() error { return cmd.Process.Kill() }
}
