package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
	"gatehouse/internal/report"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

type waveCmd struct {
	StateDir string `help:"Where waves are kept." placeholder:"DIR"`
	Stores   `embed:""`

	List     waveListCmd     `cmd:"" help:"List the waves that were saved."`
	Show     waveShowCmd     `cmd:"" help:"Show what a wave counted, and by which method."`
	Hosts    waveHostsCmd    `cmd:"" help:"Write the hosts of a wave, as scan does."`
	Diff     waveDiffCmd     `cmd:"" help:"Show what became of each server between two waves."`
	Trend    waveTrendCmd    `cmd:"" help:"Show the waves of a scope as a course over time."`
	Estimate waveEstimateCmd `cmd:"" help:"Estimate a total from a sample, or from two looks at the same places."`
	Fixes    waveFixesCmd    `cmd:"" help:"Show how long findings lasted until they were fixed."`
	Rejudge  waveRejudgeCmd  `cmd:"" help:"Judge what a wave heard by today's rules, without looking again."`
	Drop     waveDropCmd     `cmd:"" help:"Delete waves."`
}

// with opens the store, gives it to what, and closes it.
func (c *waveCmd) with(what func(*store.Store) error) error {
	return withStore(c.StateDir, &c.Stores, what)
}

func withStore(dir string, at *Stores, what func(*store.Store) error) error {
	st, err := openState(dir, at)
	if err != nil {
		return err
	}
	return errors.Join(what(st), st.Close())
}

// findWave is the wave that the user named.
func findWave(st *store.Store, which string) (wave.Info, error) {
	i, err := st.Wave(which)
	if errors.Is(err, store.ErrNoWave) {
		return i, usage(fmt.Errorf("there is no wave %q", which), "gatehouse wave list shows them; last is the newest")
	}
	return i, err
}

// finished is findWave for what only makes sense of a wave that ended.
func finished(st *store.Store, which string) (wave.Info, error) {
	i, err := findWave(st, which)
	if err == nil && i.Tally == nil {
		return i, usage(fmt.Errorf("wave %d did not come to its end", i.Number), "the same gatehouse scan --save goes on with it; gatehouse wave hosts shows what it has")
	}
	return i, err
}

type waveListCmd struct {
	Scope string `help:"Only the waves of this scope, by its name." placeholder:"NAME"`
	JSON  bool   `name:"json" help:"As JSON, with all that is kept of each."`
}

func (c *waveListCmd) Run(s streams, parent *waveCmd) error {
	return parent.with(func(st *store.Store) error {
		list, err := st.Waves(c.Scope)
		if err != nil {
			return err
		}
		if c.JSON {
			return writeJSON(s.out, list)
		}
		if len(list) == 0 {
			_, err := fmt.Fprintln(s.out, "No waves are kept. Keep one with: gatehouse scan --save 127.0.0.1")
			return err
		}
		return report.Waves(s.out, list, options(s.out))
	})
}

func writeJSON(w io.Writer, v any) error {
	if err := json.MarshalWrite(w, v, jsontext.WithIndent("  "), json.Deterministic(true)); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

type waveShowCmd struct {
	Wave  string `arg:"" help:"Its number, its id, or last." default:"last"`
	Since string `help:"The earlier wave that growth is counted from (default: the one of the scope before)." placeholder:"WAVE"`
	JSON  bool   `name:"json" help:"As JSON."`
}

func (c *waveShowCmd) Run(s streams, parent *waveCmd) error {
	return parent.with(func(st *store.Store) error {
		i, err := finished(st, c.Wave)
		if err != nil {
			return err
		}
		if c.JSON {
			return writeJSON(s.out, i)
		}
		earlier, err := c.earlier(st, &i)
		if err != nil {
			return err
		}
		return report.Statistics(s.out, &i, earlier, options(s.out))
	})
}

func (c *waveShowCmd) earlier(st *store.Store, i *wave.Info) (*wave.Info, error) {
	if c.Since != "" {
		e, err := finished(st, c.Since)
		return &e, err
	}
	list, err := course(st, i.Scope)
	return before(list, i, func(*wave.Info) bool { return true }), err
}

// course are the waves of a scope that came to their end, in the order in which
// they began: one that was imported may be older than its number says.
func course(st *store.Store, scope string) ([]wave.Info, error) {
	list, err := st.Waves(scope)
	list = slices.DeleteFunc(list, func(i wave.Info) bool { return i.Tally == nil || i.Scope != scope })
	slices.SortStableFunc(list, func(a, b wave.Info) int { return a.Started.Compare(b.Started) })
	return list, err
}

// before is the last wave of a course that began before i and is wanted, nil when
// there is none.
func before(course []wave.Info, i *wave.Info, wanted func(*wave.Info) bool) *wave.Info {
	for _, e := range slices.Backward(course) {
		if e.Started.Before(i.Started) && wanted(&e) {
			return &e
		}
	}
	return nil
}

type waveHostsCmd struct {
	Wave    string `arg:"" help:"Its number, its id, or last." default:"last"`
	Outputs `embed:""`
}

func (c *waveHostsCmd) Run(s streams, parent *waveCmd) error {
	return parent.with(func(st *store.Store) error {
		i, err := findWave(st, c.Wave)
		if err != nil {
			return err
		}
		sum := wave.Summary{Wave: i.Name, Scope: i.Scope, Started: i.Started, Seed: i.Seed, Stopped: "did not come to its end yet"}
		if i.Summary != nil {
			sum = *i.Summary
		}
		failing := false
		hosts := report.Hosts(func(yield func(wave.Record, error) bool) {
			for r, err := range st.Records(i.Number) {
				failing = failing || err == nil && c.fails(&r)
				if !yield(r, err) {
					return
				}
			}
		})
		if err := c.write(s, sum, hosts); err != nil {
			return err
		}
		if failing {
			return codeError(exitFindings)
		}
		return nil
	})
}

type waveDiffCmd struct {
	Before string `arg:"" help:"The earlier wave." placeholder:"WAVE"`
	After  string `arg:"" help:"The later wave." placeholder:"WAVE"`
	Looks  int    `help:"In how many looks in a row a server is not seen before it counts as gone." default:"2" placeholder:"K"`
	Format string `help:"table, json (counts and the first of each), or jsonl (every difference)." enum:"table,json,jsonl" default:"table" placeholder:"FORMAT"`
	Rows   int    `help:"So many of each kind in the table." default:"10"`
	Anyway bool   `help:"Compare waves over different places, too: what only one of them looked at then shows as new or not seen."`
}

func (c *waveDiffCmd) Run(s streams, parent *waveCmd) error {
	if c.Looks < 1 {
		return usage(fmt.Errorf("--looks %d is none", c.Looks), "try --looks 2")
	}
	return parent.with(func(st *store.Store) error {
		a, err := finished(st, c.Before)
		if err != nil {
			return err
		}
		b, err := finished(st, c.After)
		if err != nil {
			return err
		}
		if !a.Started.Before(b.Started) {
			return usage(fmt.Errorf("wave %d began after wave %d", a.Number, b.Number), "the earlier wave comes first")
		}
		if !c.Anyway && !a.Comparable(&b) {
			return usage(fmt.Errorf("waves %d and %d looked at different places", a.Number, b.Number), "compare waves of the same targets, ports and sample, or add --anyway")
		}
		opt := wave.CompareOptions{Looks: c.Looks}
		if c.Format == "jsonl" {
			opt.Limit = -1
			opt.Each = func(d wave.Difference) error {
				if err := json.MarshalWrite(s.out, d, jsontext.AllowInvalidUTF8(true)); err != nil {
					return err
				}
				_, err := io.WriteString(s.out, "\n")
				return err
			}
		}
		cmp, err := compare(st, &a, &b, opt)
		switch {
		case err != nil || c.Format == "jsonl":
			return err
		case c.Format == "json":
			return writeJSON(s.out, cmp)
		}
		o := options(s.out)
		o.Rows = c.Rows
		return report.Differences(s.out, &a, &b, &cmp, o)
	})
}

// compare compares two waves of the store.
func compare(st *store.Store, a, b *wave.Info, opt wave.CompareOptions) (wave.Comparison, error) {
	opt.Before, opt.After = a.Tally, b.Tally
	return wave.Compare(st.Pairs(a.Number, b.Number, opt.Looks), opt)
}

// defaultScope makes an empty scope that of the newest wave.
func defaultScope(st *store.Store, scope *string) error {
	if *scope != "" {
		return nil
	}
	i, err := findWave(st, "last")
	*scope = i.Scope
	return err
}

type waveTrendCmd struct {
	Scope string `arg:"" optional:"" help:"The scope's name (default: that of the newest wave)."`
	JSON  bool   `name:"json" help:"As JSON."`
}

func (c *waveTrendCmd) Run(s streams, parent *waveCmd) error {
	return parent.with(func(st *store.Store) error {
		if err := defaultScope(st, &c.Scope); err != nil {
			return err
		}
		list, err := course(st, c.Scope)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return usage(fmt.Errorf("no wave of scope %q came to its end", c.Scope), "gatehouse wave list shows them")
		}
		if c.JSON {
			return writeJSON(s.out, list)
		}
		return report.Trend(s.out, list, options(s.out))
	})
}

type waveEstimateCmd struct {
	Wave  string `arg:"" help:"A wave over a sample, or the first of two over the same places."`
	With  string `help:"The second wave over the same places: capture and recapture." placeholder:"WAVE"`
	Exact bool   `help:"Clopper and Pearson's interval, which is never too narrow, instead of Wilson's."`
}

func (c *waveEstimateCmd) Run(s streams, parent *waveCmd) error {
	return parent.with(func(st *store.Store) error {
		i, err := finished(st, c.Wave)
		if err != nil {
			return err
		}
		var e wave.Estimate
		if c.With != "" {
			second, err := finished(st, c.With)
			if err != nil {
				return err
			}
			both, err := st.Both(i.Number, second.Number)
			if err != nil {
				return err
			}
			if e, err = wave.Recapture(i.Tally.Open, second.Tally.Open, both); err != nil {
				return err
			}
		} else {
			m := i.Method
			if m.Population == 0 || m.Population == m.Visited {
				return usage(fmt.Errorf("wave %d looked at every place: there is nothing to estimate", i.Number), "gatehouse scan --sample 1% --save takes a sample; --with compares two waves")
			}
			rule := wave.Wilson
			if c.Exact {
				rule = wave.ClopperPearson
			}
			if e, err = wave.FromSample(i.Tally.Open, m.Visited, m.Population, rule); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(s.out, "\n  about %s open servers; 95 %% between %s and %s\n  %s\n\n", number(e.Total), number(e.Low), number(e.High), e.Method)
		return err
	})
}

// number is a count that was not counted.
func number(f float64) string { return strconv.FormatFloat(f, 'f', 0, 64) }

type waveFixesCmd struct {
	Scope string `arg:"" optional:"" help:"The scope's name (default: that of the newest wave)."`
	Least int    `help:"Owners with at least so many servers." default:"5"`
}

func (c *waveFixesCmd) Run(s streams, parent *waveCmd) error {
	return parent.with(func(st *store.Store) error {
		if err := defaultScope(st, &c.Scope); err != nil {
			return err
		}
		fixes, err := st.Fixes(c.Scope)
		if err != nil {
			return err
		}
		rows := fixes.Table(c.Least)
		if len(rows) == 0 {
			return usage(fmt.Errorf("no wave of scope %q has findings", c.Scope), "gatehouse wave list shows them")
		}
		return report.FixTimes(s.out, rows, options(s.out))
	})
}

type waveRejudgeCmd struct {
	Wave       string `arg:"" help:"Its number, its id, or last."`
	Advisories string `help:"Folder of OSV files to judge versions by, instead of the built-in table." placeholder:"DIR" type:"path"`
}

func (c *waveRejudgeCmd) Run(s streams, parent *waveCmd) error {
	rules := finding.Rules{Advisories: ollama.Default()}
	if c.Advisories != "" {
		var err error
		if rules, err = (&Looks{Advisories: c.Advisories}).rules(); err != nil {
			return err
		}
	}
	return parent.with(func(st *store.Store) error {
		i, err := findWave(st, c.Wave)
		if err != nil {
			return err
		}
		changed, err := st.Rejudge(i.Number, func(h *evidence.Host) finding.Verdict { return rules.Judge(h) })
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "Wave %d is judged anew: %d of its hosts are another thing now, or have other findings.\n", i.Number, changed)
		return err
	})
}

type waveDropCmd struct {
	Wave []string `arg:"" help:"Their numbers or ids."`
}

func (c *waveDropCmd) Run(s streams, parent *waveCmd) error {
	return parent.with(func(st *store.Store) error {
		for _, which := range c.Wave {
			i, err := findWave(st, which)
			if err != nil {
				return err
			}
			if err := st.Drop(i.Number); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "Wave %d of %s is deleted.\n", i.Number, i.Started.Format(time.DateOnly))
		}
		return nil
	})
}

type forgetCmd struct {
	StateDir string `help:"Where waves are kept." placeholder:"DIR"`
	Stores   `embed:""`
	Address  []string `arg:"" help:"Addresses of which nothing is to be kept."`
}

func (forgetCmd) Help() string {
	return `Deletes every observation, piece of evidence, look and note of an address, in all waves. In SQLite the pages where they stood are overwritten; PostgreSQL keeps dead rows until its vacuum, and its archives and replicas are its own. Counts that were published are sums and stay. Put the address into the scope's exclude: as well, or the next wave finds it again.`
}

func (c *forgetCmd) Run(ctx context.Context, s streams) error {
	var addrs []netip.Addr
	for _, a := range c.Address {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return usage(fmt.Errorf("%q is no address", a), "such as gatehouse forget 192.0.2.7")
		}
		addrs = append(addrs, addr)
	}
	return withStore(c.StateDir, &c.Stores, func(st *store.Store) error {
		for _, a := range addrs {
			n, err := st.Forget(a)
			if err != nil {
				return err
			}
			what := "observations are"
			if n == 1 {
				what = "observation is"
			}
			fmt.Fprintf(s.out, "%s: %d %s deleted.\n", a, n, what)
		}
		return nil
	})
}
