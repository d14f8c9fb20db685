package postgrestest

import "os/exec"

func as(*exec.Cmd) {}

func own(string) error { return nil }
