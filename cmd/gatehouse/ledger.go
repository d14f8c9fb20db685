package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gatehouse/internal/ledger"
	"gatehouse/internal/report"
)

type ledgerCmd struct {
	StateDir string `help:"Where the ledger is kept." placeholder:"DIR"`

	Query ledgerQueryCmd `cmd:"" help:"Show records of the past."`
	Tail  ledgerTailCmd  `cmd:"" help:"Show records as they come."`
}

// Picks are the flags that say which records.
type Picks struct {
	Key    string `help:"Only of this key or identity, by name or id." placeholder:"KEY"`
	Denied bool   `help:"Only what was not let in."`
	JSON   bool   `name:"json" help:"As JSON Lines, all fields."`
}

type ledgerQueryCmd struct {
	Picks `embed:""`
	Since span `help:"How far back." default:"24h" placeholder:"TIME"`
}

type ledgerTailCmd struct {
	Picks `embed:""`
	Since span `help:"Begin so far back." default:"10m" placeholder:"TIME"`
}

func (c *ledgerQueryCmd) Run(s streams, parent *ledgerCmd) error {
	dir, err := stateDir(parent.StateDir)
	if err != nil {
		return err
	}
	return c.show(s, ledger.Read(filepath.Join(dir, "ledger"), c.query(c.Since)))
}

func (c *ledgerTailCmd) Run(ctx context.Context, s streams, parent *ledgerCmd) error {
	dir, err := stateDir(parent.StateDir)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return c.show(s, ledger.Follow(ctx, filepath.Join(dir, "ledger"), c.query(c.Since)))
}

func (p *Picks) query(since span) ledger.Query {
	return ledger.Query{Key: p.Key, Denied: p.Denied, Since: time.Now().Add(-time.Duration(since))}
}

// show writes records as they come. Lines that cannot be read are told, and the
// rest is shown.
func (p *Picks) show(s streams, records iter.Seq2[ledger.Record, error]) error {
	bad := 0
	for r, err := range records {
		line := new(ledger.LineError)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			_, err := fmt.Fprintln(s.err, "no gate has kept a ledger here yet")
			return err
		case errors.As(err, &line):
			bad++
			fmt.Fprintf(s.err, "gatehouse: %s\n", report.Clean(err.Error()))
			continue
		case err != nil:
			return err
		}
		if p.JSON {
			err = printJSON(s, r)
		} else {
			err = printRecord(s.out, &r)
		}
		if err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d lines of the ledger cannot be read", bad)
	}
	return nil
}

func printRecord(w io.Writer, r *ledger.Record) error {
	when := r.Time.Local().Format("01-02 15:04:05")
	if r.Event != ledger.Request {
		_, err := fmt.Fprintf(w, "%s  %s %s\n", when, r.Event, report.Clean(r.Detail))
		return err
	}
	who := r.Identity.Name
	if who == "" {
		who = r.Identity.ID
	}
	if who == "" {
		who = "?"
	}
	parts := []string{fmt.Sprintf("%s  %-12s %s %s", when, report.Clean(who), r.Method, report.Clean(r.Route)), fmt.Sprint(r.Status)}
	if r.Model != "" {
		parts = append(parts, report.Clean(r.Model))
	}
	if r.TokensIn+r.TokensOut > 0 {
		parts = append(parts, fmt.Sprintf("%d+%d tokens", r.TokensIn, r.TokensOut))
	}
	if r.Reason != "" {
		parts = append(parts, r.Reason)
	}
	parts = append(parts, "from "+r.Address, r.Duration.Round(time.Millisecond).String())
	_, err := fmt.Fprintln(w, strings.Join(parts, "  "))
	return err
}
