package main

import (
	"fmt"
	"time"

	"gatehouse/internal/scope"
)

type scopeCmd struct {
	Init  scopeInitCmd  `cmd:"" help:"Print a scope file to fill in."`
	Check scopeCheckCmd `cmd:"" help:"Say what a scope file permits, or what is wrong with it."`
}

type scopeInitCmd struct{}

func (scopeInitCmd) Run(s streams) error {
	_, err := s.out.Write(scope.Template(time.Now()))
	return err
}

type scopeCheckCmd struct {
	File string `arg:"" help:"The scope file."`
}

func (c scopeCheckCmd) Run(s streams) error {
	text, err := readFile(c.File)
	if err != nil {
		return usage(err, "gatehouse scope init writes one to start from")
	}
	sc, err := scope.Parse(text)
	if err != nil {
		return usage(fmt.Errorf("scope %s: %w", c.File, err), "gatehouse scope init shows every field")
	}
	left := "expired"
	if d := time.Until(sc.Expires); d > 0 {
		left = fmt.Sprintf("%d days left", int(d.Hours()/24))
	}
	_, err = fmt.Fprintf(s.out, "%s: permitted by %s, contact %s, until %s (%s)\n%d networks included, %d excluded\n",
		sc.Name, sc.Authority, sc.Contact, sc.Expires.Format(time.DateTime), left, len(sc.Include), len(sc.Exclude))
	if err == nil && left == "expired" {
		return usage(fmt.Errorf("scope %s: %w", c.File, scope.ErrExpired), "have the authority agree again, then change expires:")
	}
	return err
}
