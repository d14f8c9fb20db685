package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gatehouse/internal/dataset"
	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/wave"
)

type importCmd struct {
	File []string `arg:"" help:"Exports, packed with gzip or not; - reads one from standard input."`

	From string `help:"What wrote them: ${formats} (default: by their content)." placeholder:"FORMAT" group:"What to read:"`
	Port uint16 `help:"Port of places where an export names none." default:"11434" group:"What to read:"`

	Verify      bool     `help:"Look at the places now, as a scan does, instead of believing the export." group:"What to look at:"`
	Scope       string   `help:"With --verify: scope file. Needed for public addresses; see gatehouse scope init." placeholder:"FILE" group:"What to look at:"`
	Exclude     []string `help:"With --verify: address or network never to touch. Repeatable." placeholder:"CIDR" group:"What to look at:"`
	ExcludeFile []string `help:"With --verify: file of addresses and networks never to touch. Repeatable." placeholder:"FILE" sep:"none" group:"What to look at:"`

	Save     bool   `help:"Keep it as a wave, with its source and date: gatehouse wave shows it." group:"What to keep:"`
	As       string `help:"With --save: the scope whose waves it is one of." default:"import" placeholder:"NAME" group:"What to keep:"`
	StateDir string `help:"Where waves are kept." placeholder:"DIR" group:"What to keep:"`
	Stores   `embed:"" group:"What to keep:"`

	Looks   `embed:"" group:"How to look, with --verify:"`
	Outputs `embed:"" group:"What to write:"`
}

func (importCmd) Help() string {
	return `Judges the exports of other programs by the rules that scans are judged by, and asks no host anything. A port that is only known to be open is no Ollama: its outcome is "other", with the reason "port open, not asked". --verify looks.

Examples:
  gatehouse import shodan.json.gz censys.jsonl
  gatehouse import --format csv -o found.csv nmap.xml shadowserver.csv
  gatehouse import --verify --scope scope.yaml masscan.json
  gatehouse import found.jsonl`
}

func (c *importCmd) Run(ctx context.Context, s streams) error {
	switch from := dataset.Format(c.From); {
	case from != "" && !slices.Contains(dataset.Formats, from):
		return usage(fmt.Errorf("--from %q is no format", c.From), "--from is one of "+formatNames())
	case slices.Contains(c.File, "-") && len(c.File) > 1:
		return usage(errors.New("- stands alone: an export comes from standard input or from files"), "leave out the other files")
	case c.As == "":
		return usage(errors.New("--as: no name"), "name the scope that it is a wave of, such as --as shodan")
	case !c.Verify && (c.Scope != "" || len(c.Exclude)+len(c.ExcludeFile) > 0):
		return usage(errors.New("nothing is looked at, so there is nothing to permit or exclude"), "add --verify to look, or leave out --scope, --exclude and --exclude-file")
	case !c.Verify && (c.Prove || c.Details):
		return usage(errors.New("--prove and --details ask hosts, which an import does not"), "add --verify to look")
	}
	for _, name := range c.File { // before hours of reading the first
		if name == "-" {
			continue
		}
		f, err := openFile(name)
		if err != nil {
			return usage(err, "give files that can be read, or - for standard input")
		}
		_ = f.Close()
	}
	if c.Verify {
		return c.verify(ctx, s)
	}
	return c.judge(ctx, s)
}

func formatNames() string {
	var names []string
	for _, f := range dataset.Formats {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// judge writes what the rules make of the exports.
func (c *importCmd) judge(ctx context.Context, s streams) error {
	rules, err := c.rules()
	if err != nil {
		return err
	}
	j := job{
		wave:  &wave.Wave{ID: newWaveID(), Scope: c.As, Started: time.Now().UTC()},
		looks: c.Looks, outputs: c.Outputs, streams: s, plan: "import", covers: "import", once: true,
		saving: Saving{Save: c.Save, StateDir: c.StateDir, Stores: c.Stores, Look: 1}, source: c.source(),
	}
	j.method.Source = j.source
	w := j.wave
	if err := c.canWrite(); err != nil {
		return err
	}
	closeKeeper, err := j.openKeeper()
	if err != nil {
		return err
	}
	defer closeKeeper()
	meter := j.meter()
	lines, closeLines, err := j.lines(meter)
	if err != nil {
		return err
	}
	defer closeLines()
	stop, ctx, release := j.interrupts(ctx, meter)
	defer release()
	ctx, cease := context.WithCancelCause(ctx)
	defer cease(nil)
	ended := make(chan struct{})
	defer func() { <-ended }()
	defer cease(nil)
	go func() {
		defer close(ended)
		select {
		case <-stop:
			cease(errStopped)
		case <-ctx.Done():
		}
	}()

	note, err := j.noted()
	if err != nil {
		return err
	}
	failing := false
	b := batch{keep: func(list []wave.Observation) error {
		if w.Keeper != nil {
			if err := w.Keeper.Keep(list); err != nil {
				return err
			}
		}
		for i := range list {
			note(&list[i].Record) // what was kept has its notes
			failing = failing || j.outputs.fails(&list[i].Record)
			if err := lines(list[i].Record); err != nil {
				return err
			}
		}
		return nil
	}}
	var again repeats
	var from, until time.Time // the window in which the hosts were seen
	readErr := c.rows(ctx, s, func(row *dataset.Row) error {
		r := recordOf(row, w.ID, rules)
		if again.seen(&r, row.Host.Reach) {
			return nil
		}
		b.counts.Add(&r)
		if at := r.ObservedAt; from.IsZero() || at.Before(from) {
			from = at
		}
		if at := r.ObservedAt; at.After(until) {
			until = at
		}
		if !c.All && (r.Outcome == finding.Refused || r.Outcome == finding.Silent) {
			return nil
		}
		return b.add(r, row.Host)
	})
	if again.n > 0 && !c.Quiet {
		fmt.Fprintf(meter.Over(s.err), "gatehouse: %d rows told of a place again, and nothing new\n", again.n)
	}
	if err := b.flush(); err != nil {
		return err
	}
	if w.Keeper != nil {
		if err := w.Keeper.Mark(wave.Mark{At: b.at, Counts: b.counts}); err != nil {
			return err
		}
	}

	sum := wave.Summary{
		Wave: w.ID, Scope: w.Scope, Source: j.source, Started: from.UTC(), Ended: until.UTC(),
		Places: b.counts.Visited, Visited: b.counts.Visited, Outcomes: b.counts.Outcomes, Severity: b.counts.Severity,
	}
	if readErr != nil {
		sum.Stopped = "stopped before the end"
		if sum.Visited == 0 && !errors.Is(readErr, errStopped) {
			return readErr // nothing was read that would be lost
		}
	}
	if j.kept != nil && readErr == nil {
		if err := j.kept.End(sum); err != nil {
			return err
		}
	}
	if err := errors.Join(j.write(sum), closeLines()); err != nil {
		return err
	}
	switch {
	case errors.Is(readErr, errStopped):
		return codeError(exitStopped)
	case readErr != nil:
		return readErr
	case failing:
		return codeError(exitFindings)
	}
	return nil
}

var errStopped = errors.New("stopped")

// batch hands records on, many at a time: a store writes a thousand in the
// time of one.
type batch struct {
	keep   func([]wave.Observation) error
	list   []wave.Observation
	at     uint64
	counts wave.Counts
}

func (b *batch) add(r wave.Record, host evidence.Host) error {
	b.list = append(b.list, wave.Observation{Pos: b.at, Record: r, Host: host})
	b.at++
	if len(b.list) < 256 {
		return nil
	}
	return b.flush()
}

func (b *batch) flush() error {
	if len(b.list) == 0 {
		return nil
	}
	err := b.keep(b.list)
	clear(b.list)
	b.list = b.list[:0]
	return err
}

// repeats knows the places that were told of last, half a million at least: one
// and the same in two exports, or twice in one, is one place. A row that says
// another outcome counts, unless it says only that the port is open.
type repeats struct {
	n           uint64
	seed        maphash.Seed
	last, older map[uint64]uint8 // its outcome's place in finding.Outcomes
}

const generation = 1 << 19

func (p *repeats) seen(r *wave.Record, reach evidence.Reach) bool {
	if p.last == nil {
		p.seed, p.last = maphash.MakeSeed(), make(map[uint64]uint8)
	}
	type place struct {
		address, name, path string
		port                uint16
	}
	key := maphash.Comparable(p.seed, place{r.Address, r.Name, r.Path, r.Port})
	outcome := uint8(slices.Index(finding.Outcomes, r.Outcome))
	before, ok := p.last[key]
	if !ok {
		before, ok = p.older[key]
	}
	if ok && (reach == evidence.Unasked || before == outcome) {
		p.n++
		return true
	}
	if len(p.last) >= generation {
		p.last, p.older = make(map[uint64]uint8), p.last
	}
	p.last[key] = outcome
	return false
}

// rows reads the exports one after the other, and says which lines were no use.
func (c *importCmd) rows(ctx context.Context, s streams, take func(*dataset.Row) error) error {
	for _, name := range c.File {
		if err := c.read(ctx, s, name, take); err != nil {
			return err
		}
	}
	return nil
}

func (c *importCmd) read(ctx context.Context, s streams, name string, take func(*dataset.Row) error) error {
	bad, n, count := &lineReporter{w: s.err, name: name, left: 10}, uint64(0), 0
	o := dataset.Options{Format: dataset.Format(c.From), Port: c.Port, Date: time.Now().Truncate(time.Second), Bad: func(line int, err error) {
		n++
		bad.report(line, err)
	}}
	var r io.Reader
	if name == "-" {
		name, bad.name, r = "standard input", "", unblocked{ctx, s.in}
	} else {
		f, err := openFile(name)
		if err != nil {
			return usage(err, "give files that can be read, or - for standard input")
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil {
			o.Date = info.ModTime().Truncate(time.Second)
		}
		r = f
	}
	for row, err := range dataset.Read(ctx, r, name, o) {
		if errors.Is(err, dataset.ErrFormat) {
			return usage(err, "--from names the format: "+formatNames())
		}
		if err == nil {
			count++
			err = take(&row)
		}
		if err != nil {
			bad.end(n)
			return err
		}
	}
	bad.end(n)
	if n > 0 && count == 0 {
		return usage(fmt.Errorf("no line of %s could be used", name), "--from names the format: "+formatNames())
	}
	return nil
}

// unblocked is a reader that lets go when ctx ends. Then the Read that does not
// return keeps its goroutine waiting, and nothing else.
type unblocked struct {
	ctx context.Context
	r   io.Reader
}

func (u unblocked) Read(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	buf, done := make([]byte, len(p)), make(chan result, 1)
	go func() {
		n, err := u.r.Read(buf)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return copy(p, buf[:r.n]), r.err
	case <-u.ctx.Done():
		return 0, context.Cause(u.ctx)
	}
}

// source is what a wave of these exports is said to come from.
func (c *importCmd) source() string {
	var list []string
	for _, name := range c.File {
		if name == "-" {
			list = append(list, "standard input")
			continue
		}
		text := filepath.Base(name)
		if info, err := os.Stat(name); err == nil {
			text += " of " + info.ModTime().UTC().Format(time.DateOnly)
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

// recordOf is what the rules, or the wave that a record is of, say of a row.
func recordOf(row *dataset.Row, id string, rules finding.Rules) wave.Record {
	h := &row.Host
	r := wave.Record{
		Wave: id, Target: h.Target, Address: h.Address.String(), Port: h.Port,
		Name: h.Name, Path: h.Path, TLS: h.TLS, ObservedAt: h.ObservedAt, Owner: ownerOf(row.Claims, h.ObservedAt),
	}
	if row.Verdict != nil {
		r.Verdict = *row.Verdict
	} else {
		r.Verdict = rules.Judge(h)
	}
	return r
}

// told is how far a claim of an export is trusted that does not say itself: it
// comes from a database that its maker bought.
const told = 0.5

// ownerOf makes an owner of what an export claims, the first of each kind. What
// follows from a country is as of the day.
func ownerOf(claims []dataset.Claim, day time.Time) (o owner.Owner) {
	for _, c := range claims {
		o.Claims = append(o.Claims, owner.Claim{What: c.What, Value: c.Value, Source: c.Source, Confidence: cmp.Or(c.Confidence, told)})
		switch c.What {
		case "country":
			o.Country = cmp.Or(o.Country, c.Value)
		case "asn":
			if n, err := strconv.ParseUint(c.Value, 10, 32); err == nil {
				o.ASN = cmp.Or(o.ASN, uint32(n))
			}
		case "network":
			o.Network = cmp.Or(o.Network, c.Value)
		case "provider":
			o.Provider = cmp.Or(o.Provider, c.Value)
		case "name":
			o.Name = cmp.Or(o.Name, c.Value)
		case "contact":
			o.Contact = cmp.Or(o.Contact, c.Value)
		}
	}
	o.EU = owner.EU(o.Country, day)
	if list := providers(); o.Provider == "" && list.Of(o.ASN) != "" {
		o.Provider = list.Of(o.ASN)
		o.Claims = append(o.Claims, owner.Claim{What: owner.Provider, Value: o.Provider, Source: "provider list of " + list.Date.Format(time.DateOnly), Confidence: told})
	}
	return o
}

var providers = sync.OnceValue(owner.DefaultProviders)

// verify scans the places of the exports, under the scope's rules.
func (c *importCmd) verify(ctx context.Context, s streams) error {
	in, out := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		to := bufio.NewWriter(out)
		err := c.rows(ctx, s, func(row *dataset.Row) error {
			if reach := row.Host.Reach; !c.All && (reach == evidence.Refused || reach == evidence.Silent) {
				return nil // nobody was there
			}
			_, err := fmt.Fprintln(to, targetFor(&row.Host))
			return err
		})
		err = errors.Join(err, to.Flush())
		_ = out.Close()
		done <- err
	}()
	scan := scanCmd{
		Target: []string{"-"}, input: "the places of " + strings.Join(c.File, ", "),
		Scope: c.Scope, Exclude: c.Exclude, ExcludeFile: c.ExcludeFile, Looks: c.Looks, Outputs: c.Outputs,
		Saving: Saving{Save: c.Save, StateDir: c.StateDir, Stores: c.Stores, Look: 1, Every: time.Minute},
	}
	err := scan.Run(ctx, streams{in: in, out: s.out, err: s.err})
	cancel()
	_ = in.Close() // ends the reading, if the scan did not want it all
	if readErr := <-done; readErr != nil && (err == nil || isFindings(err)) {
		return readErr
	}
	return err
}

func isFindings(err error) bool {
	code, ok := errors.AsType[codeError](err)
	return ok && code == exitFindings
}

// targetFor is how a user would name a place to have it looked at.
func targetFor(h *evidence.Host) string {
	at := netip.AddrPortFrom(h.Address, h.Port).String()
	switch {
	case h.TLS != nil:
		return "https://" + at + h.Path
	case h.Path != "":
		return "http://" + at + h.Path
	}
	return at
}
