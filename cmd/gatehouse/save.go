package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gatehouse/internal/probe"
	"gatehouse/internal/store"
	"gatehouse/internal/target"
	"gatehouse/internal/wave"
)

// Saving are the flags about what is kept of a wave.
type Saving struct {
	Save      bool          `help:"Keep the wave with all that was heard: gatehouse wave shows it. The same command goes on after a stop, even kill -9."`
	Fresh     bool          `help:"With --save: begin a new wave where an unfinished one would be gone on with."`
	Look      int           `name:"looks" help:"With --save: look so many times at the servers that are open, to see which are at work." default:"1" placeholder:"N"`
	Every     time.Duration `help:"With --looks: how long from one look to the next." default:"10m"`
	Retention span          `help:"With --save: delete waves of this scope that are older, such as 730d." placeholder:"TIME"`
	StateDir  string        `help:"Where waves are kept." placeholder:"DIR"`
	Stores    `embed:""`
}

func (v *Saving) check(state string) error {
	switch {
	case !v.Save && v.Look > 1:
		return usage(errors.New("--looks needs --save"), "several looks are compared in the store: add --save")
	case !v.Save && v.Fresh:
		return usage(errors.New("--fresh needs --save"), "without --save every scan begins anew")
	case !v.Save && v.Retention > 0:
		return usage(errors.New("--retention needs --save"), "add --save, or drop waves by gatehouse wave drop")
	case v.Save && state != "":
		return usage(errors.New("--save and --state do the same in two places"), "leave out --state: a saved wave goes on by itself")
	case v.Look < 1 || v.Look > 1000:
		return usage(fmt.Errorf("--looks %d is not between 1 and 1000", v.Look), "try --looks 3 --every 10m")
	case v.Every <= 0:
		return usage(fmt.Errorf("--every %s is no pause", v.Every), "try --looks 3 --every 10m")
	}
	return nil
}

// Stores are the flags about where the store is.
type Stores struct {
	Store     string `help:"Where waves and keys are kept: postgres://LOGIN@HOST/DATABASE, or a file (default: gatehouse.db in the state folder)." placeholder:"URL"`
	StoreFile string `help:"File that holds that URL: arguments are seen by every user of this machine." placeholder:"FILE"`
}

// dsn is what was said of where the store is, "" for nothing.
func (s *Stores) dsn() (string, error) {
	if s.Store != "" || s.StoreFile == "" {
		return s.Store, nil
	}
	text, err := readFile(s.StoreFile)
	if err != nil {
		return "", usage(err, "--store-file takes a file with the store's URL alone")
	}
	dsn := strings.TrimSpace(string(text))
	if kind, _, ok := strings.Cut(dsn, ":"); !ok || strings.Contains(dsn, "\n") || kind != "sqlite" && kind != "postgres" && kind != "postgresql" {
		return "", usage(fmt.Errorf("%s: it does not hold the URL of a store", s.StoreFile), "--store-file takes a file with the store's URL alone")
	}
	return dsn, nil
}

// openState opens the store: the one that was named, or else the one in the state
// folder, making both if need be.
func openState(flag string, at *Stores) (*store.Store, error) {
	dsn, err := at.dsn()
	if err != nil {
		return nil, err
	}
	if dsn != "" {
		return openStoreAt(dsn)
	}
	dir, err := stateDir(flag)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, usage(fmt.Errorf("state folder: %w", err), "name another with --state-dir")
	}
	return openStoreAt(filepath.Join(dir, "gatehouse.db"))
}

func openStoreAt(dsn string) (*store.Store, error) {
	st, err := store.Open(dsn)
	if errors.Is(err, store.ErrAddress) {
		return nil, usage(err, "such as postgres://LOGIN@HOST:5432/DATABASE, what is special in it as in URLs (%40 for @), or sqlite:FILE")
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		err = fmt.Errorf("%w: %w", err, store.ErrReadOnly)
	}
	return st, err
}

// storeHint says what to do about a store that cannot be used, "" where err is
// of something else.
func storeHint(err error) string {
	switch {
	case errors.Is(err, store.ErrUnreachable):
		return "see that PostgreSQL runs there and lets this machine in (--store); what was kept is safe, the same command goes on"
	case errors.Is(err, store.ErrDenied):
		return "the login of --store needs a password (PGPASSFILE, or the file of --store-file) and a schema that it owns"
	case errors.Is(err, store.ErrUnready):
		return "name a database that is there: createdb -E UTF8 gatehouse; --store postgres://LOGIN@HOST/gatehouse"
	case errors.Is(err, store.ErrCopying):
		return "go on with gatehouse store copy, with the same --from and --to"
	case store.InPostgres(err) && errors.Is(err, store.ErrFull):
		return "what was kept is safe: make room on the server and give the same command again"
	case store.InPostgres(err) && errors.Is(err, store.ErrBusy):
		return "give the same command again; pg_stat_activity shows what has it"
	case store.InPostgres(err) && errors.Is(err, store.ErrReadOnly):
		return "name the server that is written to with --store"
	case store.InPostgres(err) && errors.Is(err, store.ErrCorrupt):
		return "the server's log says more; restore it from a backup"
	case errors.Is(err, store.ErrFull):
		return "what was kept is safe: make room and give the same command again, or name another place with --state-dir"
	case errors.Is(err, store.ErrBusy):
		return "end the process that has it, or name another place with --state-dir"
	case errors.Is(err, store.ErrReadOnly):
		return "have the folder writable, or name another with --state-dir"
	case errors.Is(err, store.ErrCorrupt):
		return "put a copy of the file back, or begin a new store with --state-dir; sqlite3's .recover saves what can be read"
	case errors.Is(err, store.ErrLater):
		return "use the newer gatehouse, or another store with --store or --state-dir"
	}
	return ""
}

// planOf says which places in which order, and what is asked and kept of them:
// a scan goes on with one of the same plan.
func (c *scanCmd) planOf(digest string, order target.Order) string {
	return fmt.Sprint(digest, " ", order, " ", c.Prove, c.Details, c.All)
}

// coversOf says which places, in any order. A sample is of a seed.
func coversOf(digest string, order target.Order) string {
	if order.Sample == 0 || order.Sample >= 1 {
		order.Seed = 0
	}
	return fmt.Sprint(digest, " ", order)
}

// unfinished is the seed of the wave over the same places that did not come to
// its end, if there is one.
func (c *scanCmd) unfinished(scope, digest string, order target.Order) (seed uint64, ok bool, err error) {
	if c.Fresh {
		return 0, false, nil
	}
	st, err := openState(c.StateDir, &c.Stores)
	if err != nil {
		return 0, false, err
	}
	defer st.Close()
	list, err := st.Waves(scope)
	if err != nil {
		return 0, false, err
	}
	for _, i := range list {
		order.Seed = i.Seed
		if i.Scope == scope && i.Ended.IsZero() && i.Plan == c.planOf(digest, order) && time.Since(i.Started) < store.MaxAge {
			seed, ok = i.Seed, true
		}
	}
	return seed, ok, nil
}

// openStore has the wave kept in the store: a new one, or the one that did not
// come to its end.
func (j *job) openStore(now time.Time) (end func() error, err error) {
	st, err := openState(j.saving.StateDir, &j.saving.Stores)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = st.Close() // the other error says more
		}
	}()
	w := j.wave
	source := cmp.Or(j.source, "scan")
	info, err := st.Unfinished(source, w.Scope, j.plan, now)
	switch {
	case j.saving.Fresh || j.once || errors.Is(err, store.ErrNoWave):
		j.kept, err = st.Begin(wave.Info{
			Name: w.ID, Scope: w.Scope, Source: source, Plan: j.plan, Covers: j.covers, Seed: w.Seed, Looks: j.saving.Look, Started: now, Method: j.method,
		})
	case err == nil:
		if j.kept, err = st.Continue(info); err == nil {
			fmt.Fprintf(j.streams.err, "gatehouse: going on with wave %d of %s; --fresh begins a new one\n", info.Number, info.Started.Format("2006-01-02 15:04 UTC"))
		}
	}
	if errors.Is(err, store.ErrInUse) {
		return nil, usage(err, "another scan of the same places is running; --fresh begins a wave of its own")
	}
	if err != nil {
		return nil, err
	}
	w.Keeper, w.ID, w.Started = j.kept, j.kept.Info.Name, j.kept.Info.Started
	j.kept.Info.Looks = j.saving.Look
	j.kept.Info.Method = j.method
	if j.saving.Look > 1 {
		j.kept.Info.Method.Every = j.saving.Every.Seconds()
	}
	kept := j.kept
	return func() error { return errors.Join(kept.Close(), st.Close()) }, nil
}

// save looks again at what is open, as often as was asked for, and ends the wave
// that is kept. One that was stopped has no end, and goes on another time.
func (j *job) save(ctx context.Context, stop <-chan struct{}, sum wave.Summary, p *probe.Prober) error {
	if j.kept == nil || sum.Stopped != "" {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	look := *p
	look.Prove, look.Details = false, 0
	for n := 1; n <= j.saving.Look && j.saving.Look > 1; n++ {
		if n > 1 {
			if !j.wait(ctx, time.Duration(n-1)*j.saving.Every, n) {
				return nil
			}
		}
		if err := j.look(ctx, n, &look); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	if err := j.kept.End(sum); err != nil {
		return err
	}
	return j.retain()
}

// look makes look n of a wave. The first was the wave itself.
func (j *job) look(ctx context.Context, n int, p *probe.Prober) error {
	if n == 1 {
		for _, err := range j.kept.Open(1) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	return j.wave.Again(ctx, j.kept.Open(n), p.Probe, func(place target.Place, l wave.Look) error {
		return j.kept.KeepLook(place, n, l)
	})
}

// wait waits for look n, which is due so long after the wave began or, where the
// wave itself took longer, after it ended; it reports whether it is time, and not
// the end.
func (j *job) wait(ctx context.Context, after time.Duration, n int) bool {
	if j.begun.IsZero() {
		j.begun = time.Now()
	}
	left := time.Until(j.begun.Add(after))
	if left <= 0 {
		return ctx.Err() == nil
	}
	if !j.outputs.Quiet {
		fmt.Fprintf(j.streams.err, "gatehouse: look %d of %d at what is open in %s\n", n, j.saving.Look, left.Round(time.Second))
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retain deletes the waves of this scope that are older than they may be.
func (j *job) retain() error {
	if j.saving.Retention <= 0 {
		return nil
	}
	st := j.kept.Store()
	list, err := st.Waves(j.wave.Scope)
	if err != nil {
		return err
	}
	oldest := time.Now().Add(-time.Duration(j.saving.Retention))
	for _, i := range list {
		if i.Scope != j.wave.Scope || i.Number == j.kept.Info.Number || i.Started.After(oldest) {
			continue
		}
		if err := st.Drop(i.Number); err != nil {
			return err
		}
		fmt.Fprintf(j.streams.err, "gatehouse: wave %d of %s is deleted (--retention)\n", i.Number, i.Started.Format(time.DateOnly))
	}
	return nil
}
