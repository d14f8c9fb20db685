package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/report"
	"gatehouse/internal/scope"
)

type scopeCmd struct {
	Init  scopeInitCmd  `cmd:"" help:"Print a scope file to fill in."`
	Check scopeCheckCmd `cmd:"" help:"Say what a scope file permits, or what is wrong with it."`
}

type scopeInitCmd struct{}

func (scopeInitCmd) Help() string {
	return `Fill it in, and have it checked:
  gatehouse scope init > scope.yaml
  gatehouse scope check scope.yaml
  gatehouse scan --scope scope.yaml`
}

func (scopeInitCmd) Run(s streams) error {
	_, err := s.out.Write(scope.Template(time.Now()))
	return err
}

type scopeCheckCmd struct {
	File string `arg:"" help:"The scope file."`
}

func (c scopeCheckCmd) Run(s streams) error {
	sc, err := readScope(c.File)
	if err != nil {
		return err
	}
	left := "expired"
	if d := time.Until(sc.Expires); d > 0 {
		left = strconv.Itoa(int(d.Hours()/24)) + " days left"
	}
	ports := "11434"
	if len(sc.Ports) > 0 {
		ports = strings.Trim(strings.ReplaceAll(fmt.Sprint(sc.Ports), " ", ", "), "[]")
	}
	rate := func(most float64) string {
		if most == 0 {
			return "what --rate and --network-rate say"
		}
		return strconv.FormatFloat(most, 'f', -1, 64) + " connections a second"
	}
	prove := "not permitted"
	if sc.Prove {
		prove = "permitted"
	}
	// Somebody else may have written the file.
	_, err = fmt.Fprintf(s.out, `%s
  permitted by  %s
  contact       %s
  until         %s UTC (%s)
  networks      %d included, %d excluded
  ports         %s
  rate          %s
  to a network  %s
  --prove       %s
`,
		report.Clean(cmp.Or(sc.Name, "(no name)")), report.Clean(sc.Authority), report.Clean(sc.Contact),
		sc.Expires.UTC().Format(time.DateTime), left, len(sc.Include), len(sc.Exclude), ports,
		rate(sc.Rate), rate(sc.PerNetworkRate), prove)
	if err == nil && left == "expired" {
		return expired(c.File, &sc)
	}
	return err
}

// readScope reads a scope file, and says of each mistake in it where it is.
func readScope(name string) (scope.Scope, error) {
	text, err := readFile(name)
	if err != nil {
		return scope.Scope{}, usage(err, "gatehouse scope init writes one to start from")
	}
	sc, err := scope.Parse(text)
	if err != nil {
		return scope.Scope{}, usage(eachLine("scope "+name, err), "gatehouse scope init shows every field")
	}
	return sc, nil
}

func expired(name string, sc *scope.Scope) error {
	return usage(fmt.Errorf("scope %s: %w (%s)", name, scope.ErrExpired, sc.Expires.UTC().Format(time.DateTime)),
		"have the authority agree again, then change expires: in "+name)
}
