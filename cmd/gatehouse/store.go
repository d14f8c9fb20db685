package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gatehouse/internal/report"
	"gatehouse/internal/store"
)

type storeCmd struct {
	StateDir string `help:"The state folder, where the store is gatehouse.db." placeholder:"DIR"`
	Stores   `embed:""`

	Status  storeStatusCmd  `cmd:"" help:"Show what kind it is, its version, its size and what is in it."`
	Migrate storeMigrateCmd `cmd:"" help:"Bring its tables up to date, as every command does, and say so."`
	Copy    storeCopyCmd    `cmd:"" help:"Copy all of it into another one, such as a file into PostgreSQL."`
}

type storeStatusCmd struct {
	JSON bool `name:"json" help:"As JSON."`
}

func (c *storeStatusCmd) Run(s streams, parent *storeCmd) error {
	return withStore(parent.StateDir, &parent.Stores, func(st *store.Store) error {
		status, err := st.Status()
		if err != nil {
			return err
		}
		if c.JSON {
			return writeJSON(s.out, status)
		}
		kind := map[string]string{"sqlite": "SQLite", "postgres": "PostgreSQL"}[status.Kind]
		fmt.Fprintf(s.out, "\n %s\n %s %s, tables of level %d, %s\n\n", report.Clean(status.Place), kind, report.Clean(status.Version), status.At, bytesFor(status.Bytes))
		unfinished := ""
		if status.Unfinished > 0 {
			unfinished = strconv.FormatInt(status.Unfinished, 10) + " did not come to their end"
		}
		return report.List(s.out, []string{"WHAT", "ROWS", ""}, [][]string{
			{"waves", strconv.FormatInt(status.Waves, 10), unfinished},
			{"hosts", strconv.FormatInt(status.Hosts, 10), ""},
			{"observations", strconv.FormatInt(status.Observations, 10), ""},
			{"notes", strconv.FormatInt(status.Notes, 10), ""},
			{"keys", strconv.FormatInt(status.Keys, 10), ""},
			{"watches", strconv.FormatInt(status.Watches, 10), ""},
			{"letters", strconv.FormatInt(status.Letters, 10), ""},
		}, options(s.out))
	})
}

// bytesFor is a size for people.
func bytesFor(n int64) string {
	switch {
	case n >= 10e9:
		return fmt.Sprintf("%d GB", n/1e9)
	case n >= 10e6:
		return fmt.Sprintf("%d MB", n/1e6)
	}
	return fmt.Sprintf("%d kB", (n+999)/1000)
}

type storeMigrateCmd struct{}

func (storeMigrateCmd) Help() string {
	return `Every command brings the tables of its store up to date. This one does nothing else, for those who want it done before the first machine of many has a new release. What the release before reads and writes stays as it is: it may go on running on the same store.`
}

func (c *storeMigrateCmd) Run(s streams, parent *storeCmd) error {
	return withStore(parent.StateDir, &parent.Stores, func(st *store.Store) error {
		l := st.Level()
		if l.Was == l.At {
			_, err := fmt.Fprintf(s.out, "The tables are of level %d, as they were.\n", l.At)
			return err
		}
		_, err := fmt.Fprintf(s.out, "The tables are of level %d now; they were of %d. Programs that know level %d go on.\n", l.At, l.Was, l.Since)
		return err
	})
}

type storeCopyCmd struct {
	From string `required:"" help:"The store that is copied: sqlite:FILE or postgres://…" placeholder:"URL"`
	To   string `required:"" help:"The store that is filled. It has to be empty, or what an earlier copy left." placeholder:"URL"`
}

func (storeCopyCmd) Help() string {
	return `Copies keys, waves with all that was heard, notes, watches and their letters, and holds both stores against each other row by row. The store that is copied stays as it is. End what writes to it first: gates, scans, watches. A copy that was stopped goes on with the same command. The ledger and certificates are no part of a store and stay in the state folder.

Example:
  gatehouse store copy --from sqlite:/var/lib/gatehouse/gatehouse.db \
    --to postgres://gatehouse@db.example/gatehouse`
}

func (c *storeCopyCmd) Run(s streams) error {
	for flag, dsn := range map[string]string{"--from": c.From, "--to": c.To} {
		if !strings.Contains(dsn, ":") && !filepath.IsAbs(dsn) {
			return usage(fmt.Errorf("%s %s is no store", flag, dsn), "such as sqlite:/var/lib/gatehouse/gatehouse.db or postgres://gatehouse@db.example/gatehouse")
		}
	}
	if path, ok := strings.CutPrefix(c.From, "sqlite:"); ok {
		if _, err := os.Stat(strings.TrimPrefix(path, "//")); err != nil {
			return usage(fmt.Errorf("--from: %w", err), "name the file of the store that is there")
		}
	}
	var rows, moved int64
	waves := make(map[int64]bool)
	err := store.Copy(c.From, c.To, func(p store.Copied) {
		rows, moved = rows+p.Rows, moved+p.Moved
		if p.Wave > 0 && !waves[p.Wave] {
			waves[p.Wave] = true
			fmt.Fprintf(s.err, "gatehouse: wave %d\n", p.Wave)
		}
	})
	switch {
	case errors.Is(err, store.ErrNotEmpty):
		return usage(err, "--to takes an empty database: createdb -E UTF8 gatehouse")
	case errors.Is(err, store.ErrInUse), errors.Is(err, store.ErrChanging):
		return usage(err, "end what writes to it, gates, scans and watches, and give the same command again")
	case err != nil:
		return err
	}
	_, err = fmt.Fprintf(s.out, "%d waves, %d rows in all, %d of them copied now: both stores are the same.\n", len(waves), rows, moved)
	return err
}
