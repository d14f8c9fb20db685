package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/term"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
	"gatehouse/internal/owner"
	"gatehouse/internal/probe"
	"gatehouse/internal/report"
	"gatehouse/internal/scope"
	"gatehouse/internal/store"
	"gatehouse/internal/sweep"
	"gatehouse/internal/target"
	"gatehouse/internal/wave"
)

type scanCmd struct {
	Target []string `arg:"" optional:"" help:"Addresses, networks, ranges a-b, names, host:port, URLs; - reads them (or the output of zmap, masscan, nmap -oG) from standard input as they come."`

	Targets []string `help:"File with targets, one a line. Repeatable." placeholder:"FILE" sep:"none" group:"What to look at:"`
	Scope   string   `help:"Scope file: what may be looked at, and by whose authority. Needed for public addresses; see gatehouse scope init." placeholder:"FILE" group:"What to look at:"`
	Exclude []string `help:"Address or network never to touch. Repeatable." placeholder:"CIDR" group:"What to look at:"`

	ExcludeFile []string      `help:"File of addresses and networks never to touch, in zmap's blocklist format. Repeatable." placeholder:"FILE" sep:"none" group:"What to look at:"`
	Ports       []uint16      `short:"p" help:"Ports where a target names none (default: the scope's, else 11434)." placeholder:"PORT" group:"What to look at:"`
	Seed        uint64        `help:"Repeat the order of an earlier scan, which said its seed." placeholder:"N" group:"What to look at:"`
	Shard       target.Shard  `help:"Only part I of N of the places, such as 1/4; the same --seed for every part." placeholder:"I/N" group:"What to look at:"`
	Sample      target.Sample `help:"Only an unbiased part of the places, such as 1%." placeholder:"PART" group:"What to look at:"`

	Looks   `embed:"" group:"How to look:"`
	Owners  `embed:"" group:"Who runs it:"`
	Outputs `embed:"" group:"What to write:"`

	Saving `embed:"" group:"What to keep:"`

	DryRun string `help:"Send nothing: write the packets of a raw sweep to this pcap file." placeholder:"FILE" group:"How to look:"`

	input string // what targets come from where Target is -; "" is standard input

	State string `help:"Keep what was found in this file: the same command goes on after a stop, even kill -9, with no host lost and none twice." placeholder:"FILE" group:"What to write:"`
}

// Looks are the flags about how places are asked.
type Looks struct {
	Prove       bool          `help:"Prove powers with requests that carry no body and change nothing."`
	Details     bool          `help:"Ask for the properties of models (POST /api/show)."`
	MaxDetails  int           `help:"For at most so many models a host." default:"8"`
	Contact     string        `help:"Who looks: a mailto:, https: or tel: URI, sent with every request (default: the scope's)." placeholder:"URI"`
	Rate        float64       `help:"Connections a second at most, over all." default:"500"`
	NetworkRate float64       `help:"Connections a second at most to one IPv4 /24 or IPv6 /48." default:"50"`
	Concurrency int           `help:"Places looked at, at the same time." default:"1000"`
	Timeout     time.Duration `help:"How long to wait for a connection." default:"3s"`
	Retries     int           `help:"More attempts when nothing comes back." default:"1"`
	MaxTime     time.Duration `help:"Budget of one place: time in all." default:"15s"`
	MaxBytes    int64         `help:"Budget of one place: bytes read in all." default:"8388608"`
	Advisories  string        `help:"Folder of OSV files to judge versions by, instead of the built-in table." placeholder:"DIR" type:"path"`

	Sweeps `embed:""`
}

// Outputs are the flags about what is written.
type Outputs struct {
	Format string `help:"table, jsonl (a line as each host is done), json, csv or sarif (default: table)." enum:"table,jsonl,json,csv,sarif" default:"table" placeholder:"FORMAT"`
	Out    string `short:"o" help:"Write there instead of standard output. All but jsonl appear whole or not at all." placeholder:"FILE"`
	All    bool   `help:"Write places that refused or kept silent, too."`
	FailOn string `help:"Exit with 3 on findings of at least this severity: low, medium, high, critical or never (default: high)." enum:"low,medium,high,critical,never" default:"high" placeholder:"SEVERITY"`
	Quiet  bool   `short:"q" help:"No progress line, and no summary on standard error."`
}

func (scanCmd) Help() string {
	return `Four reads tell what a place is: GET /, /api/version, /api/tags and /api/ps. Nothing else is asked without --prove or --details. Loopback and private addresses need no permission; public ones need a scope file.

Examples:
  gatehouse scan 192.168.1.0/24
  gatehouse scan host.example:8080 https://host.example/ollama
  gatehouse scan --prove --details 10.0.0.5
  gatehouse scan --targets hosts.txt --format csv -o found.csv
  gatehouse scan --scope scope.yaml --state wave.state
  zmap … | gatehouse scan --scope scope.yaml -`
}

func (c *scanCmd) Run(ctx context.Context, s streams) error {
	j, err := c.prepare(ctx, s)
	if err != nil {
		return err
	}
	defer j.owners.Close()
	if c.DryRun != "" {
		return j.dryRun(ctx, c.DryRun)
	}
	return j.run(ctx)
}

// prepare makes the job, whose owners the caller closes.
func (c *scanCmd) prepare(ctx context.Context, s streams) (made *job, err error) {
	sc, err := c.scope()
	if err != nil {
		return nil, err
	}
	if sc.Rate > 0 {
		c.Rate = min(c.Rate, sc.Rate)
	}
	if sc.PerNetworkRate > 0 {
		c.NetworkRate = min(c.NetworkRate, sc.PerNetworkRate)
	}
	if c.Scope != "" && time.Now().After(sc.Expires) {
		return nil, expired(c.Scope, &sc)
	}
	if c.Prove && c.Scope != "" && !sc.Prove {
		return nil, usage(errors.New("the scope does not permit --prove"), "set prove: true in "+c.Scope+", if its authority agrees")
	}
	if err := c.Looks.check(); err != nil {
		return nil, err
	}
	if c.Contact == "" {
		c.Contact = sc.Contact
	}
	if c.Seed == 0 && c.State != "" {
		// The order of the scan that is taken up again; another error shows later.
		if h, err := wave.ReadHeader(c.State); err == nil {
			c.Seed = h.Seed
		}
	}
	seeded := c.Seed != 0
	if err := c.Saving.check(c.State); err != nil {
		return nil, err
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()>>11 | 1 // below 2^53, for readers that take numbers for floats
	}
	c.Owners.state = c.StateDir
	owners, err := c.Owners.finder(c.Contact)
	if err != nil {
		return nil, err
	}
	defer func() {
		if made == nil {
			_ = owners.Close() // the other error says more
		}
	}()
	w := wave.Wave{ID: newWaveID(), Scope: sc.Name, Seed: c.Seed, Own: owners.Of}
	order := target.Order{Seed: c.Seed, Shard: c.Shard, Sample: c.Sample}

	checker := sc.Checker()
	opt := target.Options{Scope: checker, Ports: c.Ports}
	j := job{wave: &w, owners: owners, looks: c.Looks, outputs: c.Outputs, saving: c.Saving, streams: s, state: c.State, checker: checker}
	ports := c.Ports
	if len(ports) == 0 {
		ports = sc.Ports
	}
	j.method = wave.Method{Ports: ports, Sample: float64(c.Sample), Owners: methodOwners(owners)}
	if slices.Contains(c.Target, "-") {
		if len(c.Target) > 1 || len(c.Targets) > 0 {
			return nil, usage(errors.New("- stands alone: targets come from standard input or from the command line"), "leave out the other targets")
		}
		if c.State != "" {
			// Places are known by their position, and the next input may have others there.
			return nil, usage(errors.New("--state needs targets that can be read again, which standard input cannot"),
				"write them to a file first; --targets takes the same lines")
		}
		bad := &lineReporter{w: s.err, name: c.input, left: 10}
		stream, err := target.NewStream(s.in, opt, order, bad.report)
		if err != nil {
			return nil, usage(err, "see gatehouse scan --help")
		}
		w.Source = stream
		if c.Save {
			j.once = true // what is read from there is not there a second time
		}
		j.before = func() error {
			if bad.first == nil || w.Visited.Load() > 0 {
				return nil
			}
			bad.end(stream.Bad.Load())
			return usage(fmt.Errorf("no line of %s could be used", cmp.Or(c.input, "standard input")), c.hint(bad.first))
		}
		j.after = func() error {
			bad.end(stream.Bad.Load())
			if err := stream.Err(); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("read standard input: %w", err)
			}
			return nil
		}
		return &j, nil
	}

	set, err := c.parse(ctx, opt)
	if err != nil {
		return nil, err
	}
	for _, err := range set.Unresolved {
		fmt.Fprintf(s.err, "gatehouse: %s\n", report.Clean(err.Error()))
	}
	if c.Save && !seeded {
		// The order of the wave that is taken up again.
		if seed, ok, err := c.unfinished(w.Scope, set.Digest(), order); err != nil {
			return nil, err
		} else if ok {
			w.Seed, order.Seed = seed, seed
		}
	}
	walk, err := set.Walk(order)
	if err != nil {
		return nil, usage(err, "see gatehouse scan --help")
	}
	w.Source, w.Places, w.Denied = walk, walk.Count(), set.Denied
	if c.Sample > 0 && c.Sample < 1 && c.Shard.N <= 1 {
		j.method.Population = set.Count()
	}
	switch { // a shard of few places may well be empty
	case set.Count() > 0:
	case set.Denied > 0:
		return nil, usage(errors.New("no place left to look at"), "every target is excluded or of a special-purpose range")
	case len(set.Unresolved) > 0:
		return nil, usage(errors.New("none of the names has an address"), c.hint(set.Unresolved[0]))
	default:
		return nil, usage(fmt.Errorf("no target in %s", strings.Join(c.Targets, ", ")), "--targets takes a file with one target a line")
	}
	j.plan, j.covers = c.planOf(set.Digest(), order), coversOf(set.Digest(), order)
	return &j, nil
}

func (l *Looks) check() error {
	// The bounds keep a pause between two connections in an int64 of
	// nanoseconds, and leave out NaN.
	const least, most = 0.001, 1e9
	switch {
	case !(l.Rate >= least && l.Rate <= most):
		return usage(fmt.Errorf("--rate %v is not between %v and %v", l.Rate, least, most), "--rate is in connections a second")
	case !(l.NetworkRate >= least && l.NetworkRate <= most):
		return usage(fmt.Errorf("--network-rate %v is not between %v and %v", l.NetworkRate, least, most), "--network-rate is in connections a second")
	case l.Concurrency < 1 || l.Concurrency > 100_000:
		return usage(fmt.Errorf("--concurrency %d is not between 1 and 100000", l.Concurrency), "try --concurrency 1000")
	case l.Timeout <= 0 || l.MaxTime <= 0:
		return usage(errors.New("--timeout and --max-time have to be above 0"), "try --timeout 3s --max-time 15s")
	case l.MaxBytes < 4096:
		return usage(fmt.Errorf("--max-bytes %d is less than one answer takes", l.MaxBytes), "try --max-bytes 8388608")
	case l.Retries < 0 || l.MaxDetails < 0:
		return usage(errors.New("--retries and --max-details cannot be negative"), "see gatehouse scan --help")
	case l.Probes < 0 || l.Cooldown < 0:
		return usage(errors.New("--probes and --cooldown cannot be negative"), "see gatehouse scan --help")
	case l.Contact != "" && !isContact(l.Contact):
		return usage(fmt.Errorf("--contact %q is no mailto:, https: or tel: URI", l.Contact), "such as --contact mailto:you@example.org")
	}
	return nil
}

// isContact reports whether s is a URI that RFC 9511 lets a probe carry, and
// can stand in the comment of a User-Agent.
func isContact(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '(' || s[i] == ')' {
			return false
		}
	}
	u, err := url.Parse(s)
	if err != nil {
		return false
	}
	switch u.Scheme {
	case "mailto":
		_, err := mail.ParseAddress(u.Opaque)
		return err == nil
	case "https":
		return u.Hostname() != "" && u.User == nil
	}
	return u.Scheme == "tel" && u.Opaque != ""
}

// scope is the permission this scan has: the scope file's, or that for loopback
// and private addresses.
func (c *scanCmd) scope() (scope.Scope, error) {
	sc := scope.Scope{Name: "local", Local: true}
	if c.Scope != "" {
		var err error
		if sc, err = readScope(c.Scope); err != nil {
			return sc, err
		}
	}
	for _, e := range c.Exclude {
		prefixes, err := scope.ParseBlocklist(strings.NewReader(e))
		if err != nil {
			return sc, usage(fmt.Errorf("--exclude %s: not an address or a network", e), "such as --exclude 10.0.0.0/8")
		}
		sc.Exclude = append(sc.Exclude, prefixes...)
	}
	for _, name := range c.ExcludeFile {
		f, err := openFile(name)
		if err != nil {
			return sc, usage(err, "--exclude-file takes a file in zmap's blocklist format")
		}
		prefixes, err := scope.ParseBlocklist(f)
		_ = f.Close()
		if err != nil {
			return sc, usage(eachLine("--exclude-file "+name, err), "one address or network a line, # before a comment")
		}
		sc.Exclude = append(sc.Exclude, prefixes...)
	}
	return sc, nil
}

func (c *scanCmd) parse(ctx context.Context, opt target.Options) (*target.Set, error) {
	var lists []target.List
	if len(c.Target)+len(c.Targets) == 0 && c.Scope == "" {
		return nil, usage(errors.New("no target"), "such as: gatehouse scan 192.168.1.0/24")
	}
	for _, name := range c.Targets {
		f, err := openFile(name)
		if err != nil {
			return nil, usage(err, "--targets takes a file with one target a line")
		}
		defer f.Close()
		lists = append(lists, target.List{Name: name, R: f})
	}
	set, err := target.Parse(ctx, c.Target, lists, opt)
	switch {
	case err == nil:
		return set, nil
	case ctx.Err() != nil:
		return nil, err
	}
	return nil, usage(err, c.hint(err))
}

// hint says what to do about a target that cannot be looked at.
func (c *scanCmd) hint(err error) string {
	_, lookup := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, scope.ErrNoScope):
		return "a public address needs a scope file: gatehouse scope init > scope.yaml, fill it in, then add --scope scope.yaml"
	case errors.Is(err, scope.ErrExpired):
		return "have the authority agree again, then change expires: in " + c.Scope
	case errors.Is(err, scope.ErrOutside):
		return "add it to include: in " + c.Scope + ", if its authority agrees"
	case errors.Is(err, scope.ErrSpecial):
		return "no scope file permits a special-purpose range; leave it out"
	case errors.Is(err, scope.ErrExcluded):
		return "see --exclude, --exclude-file, and exclude: in the scope file"
	case lookup:
		return "is the name spelt right? On a --targets file a name without an address is passed over"
	}
	return "targets are addresses, networks, ranges a-b, names, host:port and URLs"
}

// job is one wave with all that is around it: how it looks, where its output
// goes, how it is stopped.
type job struct {
	wave    *wave.Wave
	owners  *owner.Finder // whose sources are told at the end; nil for none
	looks   Looks
	outputs Outputs
	streams streams
	checker *scope.Checker
	plan    string // says which places in which order, and what is kept of them
	covers  string // says which places; "" where that cannot be told before the end
	state   string
	saving  Saving
	method  wave.Method  // as far as the caller knows it
	source  string       // what was imported; "" is a scan
	once    bool         // the places are there only once, so that the wave cannot be taken up again
	before  func() error // says, before anything is written, that there was nothing to look at
	after   func() error // says what else went wrong

	kept  *store.Wave // what openStore opened
	begun time.Time   // the looks

	// finish writes what was found; nil writes it as outputs says.
	finish func(wave.Summary, report.Hosts) error
}

func (j *job) run(ctx context.Context) error {
	rules, err := j.looks.rules()
	if err != nil {
		return err
	}
	w := j.wave
	limit := sweep.NewLimit(j.looks.Rate, j.looks.NetworkRate)
	allows := func(a netip.Addr) error { return j.checker.Allows(a, time.Now()) }
	sweeper := &sweep.Sweeper{Allows: allows, Timeout: j.looks.Timeout, Retries: j.looks.Retries, Limit: limit}
	prober := &probe.Prober{
		Allows: allows, Dial: sweeper.Dial, UserAgent: userAgent(j.looks.Contact), Prove: j.looks.Prove,
		Budget: probe.Budget{Bytes: j.looks.MaxBytes, Time: j.looks.MaxTime, Reply: min(5*time.Second, j.looks.MaxTime)},
	}
	if j.looks.Details {
		prober.Details = j.looks.MaxDetails
	}
	w.Dial, w.Probe, w.Judge = sweeper.Dial, prober.Probe, func(h *evidence.Host) finding.Verdict { return rules.Judge(h) }
	syn, err := j.syn(ctx, allows, limit)
	if err != nil {
		return err
	}
	if syn != nil {
		w.Sweep = syn
	}
	w.Workers, w.All = workers(j.looks.Concurrency), j.outputs.All

	if j.state != "" && filepath.Clean(j.state) == filepath.Clean(j.outputs.Out) {
		return usage(errors.New("--state and --out name the same file"), "the state is not the output: give each a file of its own")
	}
	if err := j.outputs.canWrite(); err != nil {
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
	var failing atomic.Bool
	note, err := j.noted()
	if err != nil {
		return err
	}
	fails := func(r wave.Record) error {
		if j.outputs.fails(&r) {
			failing.Store(true)
		}
		return lines(r)
	}
	if w.Keeper != nil {
		for r, err := range w.Keeper.Records() {
			if err != nil {
				return err
			}
			if err := fails(r); err != nil {
				return err
			}
		}
	}
	w.Record = func(r wave.Record) error {
		note(&r) // what was kept has its notes
		return fails(r)
	}

	stop, hard, release := j.interrupts(ctx, meter)
	defer release()
	showing := j.showProgress(hard, meter)
	sum, err := w.Run(hard, stop)
	showing()
	sum.Retried, sum.Pressure = sweeper.Retried(), sweeper.Pressure()
	if err != nil {
		return errors.Join(err, j.after0())
	}
	if hard.Err() != nil {
		fmt.Fprintln(j.streams.err, "gatehouse: stopped"+j.goesOn())
		return codeError(exitStopped)
	}
	if j.before != nil {
		if err := j.before(); err != nil {
			return err
		}
	}
	if err := j.save(hard, stop, sum, prober); err != nil {
		return err
	}
	if err := j.write(sum); err != nil {
		return err
	}
	if j.owners != nil && !j.outputs.Quiet {
		if err := tellSources(streams{out: j.streams.err}, j.owners); err != nil {
			return err
		}
	}
	if err := j.after0(); err != nil {
		return err
	}
	if err := closeLines(); err != nil {
		return err
	}
	select {
	case <-stop:
		if j.goesOn() != "" {
			fmt.Fprintln(j.streams.err, "gatehouse: stopped"+j.goesOn())
		}
		return codeError(exitStopped)
	default:
	}
	if failing.Load() {
		return codeError(exitFindings)
	}
	return nil
}

// goesOn says how a wave that was stopped is taken up again.
func (j *job) goesOn() string {
	switch {
	case j.kept != nil:
		return fmt.Sprintf("; what was found is kept as wave %d, the same command goes on from there", j.kept.Info.Number)
	case j.state == "":
		return ""
	}
	return "; what was found is in " + report.Clean(j.state) + ", the same command goes on from there"
}

func (j *job) after0() error {
	if j.after == nil {
		return nil
	}
	return j.after()
}

// openKeeper opens what the wave is kept in: the store, the state file, or a
// temporary one where the output can only be written at the end. What it returns
// may be called again.
func (j *job) openKeeper() (end func() error, err error) {
	w := j.wave
	h := wave.Header{Wave: w.ID, Plan: j.plan, Seed: w.Seed, Started: time.Now().UTC()}
	switch {
	case j.saving.Save:
		return j.openStore(h.Started)
	case j.state != "":
		journal, err := wave.OpenJournal(j.state, h)
		if errors.Is(err, wave.ErrOtherPlan) {
			return nil, usage(err, "give the same targets and flags, or another --state")
		}
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			return nil, usage(err, "--state takes a file of its own that can be written")
		}
		if err != nil {
			return nil, err
		}
		w.Keeper, w.ID, w.Started = journal, journal.Header.Wave, journal.Header.Started
		return journal.Close, nil
	case j.outputs.Format != "jsonl" || j.finish != nil:
		journal, err := wave.TempJournal(h)
		if err != nil {
			return nil, err
		}
		w.Keeper = journal
		return journal.Close, nil
	}
	return func() error { return nil }, nil
}

// lines returns where each record goes at once: to the output if that is JSON
// Lines, else nowhere.
func (j *job) lines(meter *report.Meter) (record func(wave.Record) error, end func() error, err error) {
	if j.outputs.Format != "jsonl" || j.finish != nil {
		return func(wave.Record) error { return nil }, func() error { return nil }, nil
	}
	if j.outputs.Out == "" {
		return report.NewLines(meter.Over(j.streams.out)).Write, func() error { return nil }, nil
	}
	f, err := os.Create(j.outputs.Out)
	if err != nil {
		return nil, nil, usage(err, "--out takes a file that can be written")
	}
	closed := false
	return report.NewLines(f).Write, func() error {
		if closed {
			return nil
		}
		closed = true
		return f.Close()
	}, nil
}

// write writes the output that needs the end of the wave.
func (j *job) write(sum wave.Summary) error {
	if j.finish != nil {
		return j.finish(sum, j.wave.Keeper.Records())
	}
	if j.outputs.Format == "jsonl" { // whose lines are written
		return j.outputs.summary(j.streams, sum)
	}
	return j.outputs.write(j.streams, sum, j.wave.Keeper.Records())
}

// write writes hosts in the form and to the place that was asked for.
func (o *Outputs) write(s streams, sum wave.Summary, hosts report.Hosts) error {
	to := func(w io.Writer) error {
		switch o.Format {
		case "jsonl":
			lines := report.NewLines(w)
			for r, err := range hosts {
				if err != nil {
					return err
				}
				if err := lines.Write(r); err != nil {
					return err
				}
			}
			return nil
		case "json":
			return report.JSON(w, sum, hosts)
		case "csv":
			return report.CSV(w, hosts)
		case "sarif":
			return report.SARIF(w, versionString(), sum, hosts)
		}
		return report.Table(w, sum, hosts, options(w))
	}
	if o.Out == "" {
		if err := to(s.out); err != nil {
			return err
		}
	} else if err := report.WriteFile(o.Out, to); err != nil {
		return err
	}
	if o.Format == "table" { // which has it
		return nil
	}
	return o.summary(s, sum)
}

func (o *Outputs) summary(s streams, sum wave.Summary) error {
	if o.Quiet {
		return nil
	}
	return report.Summary(s.err, sum, options(s.err))
}

// writable says before hours of looking what WriteFile would say after them.
func writable(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	switch old, err := os.Stat(path); {
	case err == nil && old.IsDir():
		return syscall.EISDIR
	case err == nil && !old.Mode().IsRegular():
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".gatehouse-*")
	if err != nil {
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			return e.Err // without the name of a file that nobody asked for
		}
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// canWrite says before anything is looked at that --out could not be written
// after it. JSON Lines are written as they come.
func (o *Outputs) canWrite() error {
	if o.Out == "" || o.Format == "jsonl" {
		return nil
	}
	if err := writable(o.Out); err != nil {
		return usage(fmt.Errorf("--out %s: %w", o.Out, err), "--out takes a file that can be written")
	}
	return nil
}

// noted puts what people said of a place on its record, where waves are kept.
func (j *job) noted() (func(*wave.Record), error) {
	if j.kept == nil {
		return func(*wave.Record) {}, nil
	}
	return j.kept.Store().Noted(time.Now())
}

// fails reports whether r has a finding that decides the exit code. What somebody
// answers for, by a note, does not.
func (o *Outputs) fails(r *wave.Record) bool {
	at := slices.Index(severities, finding.Severity(o.FailOn))
	return at >= 0 && !r.Settled() && slices.ContainsFunc(r.Findings, func(f finding.Finding) bool {
		return slices.Index(severities, f.Severity) >= at
	})
}

var severities = []finding.Severity{finding.None, finding.Low, finding.Medium, finding.High, finding.Critical}

func (l *Looks) rules() (finding.Rules, error) {
	if l.Advisories == "" {
		return finding.Rules{Advisories: ollama.Default()}, nil
	}
	list, err := ollama.Load(os.DirFS(l.Advisories))
	if err != nil {
		return finding.Rules{}, usage(fmt.Errorf("--advisories %s: %w", l.Advisories, err), "--advisories takes a folder of OSV files as the Go vulnerability database has them")
	}
	return finding.Rules{Advisories: list}, nil
}

// userAgent says who asks and where a complaint goes (RFC 9511, section 4).
func userAgent(contact string) string {
	if contact == "" {
		contact = "local network scan, no contact given"
	}
	return "Gatehouse/" + strings.TrimPrefix(versionString(), "v") + " (+" + contact + ")"
}

// workers is concurrency, or what the limit of open files leaves room for.
func workers(concurrency int) int {
	if files := maxFiles(); files > 128 {
		concurrency = min(concurrency, files-64)
	}
	return concurrency
}

func newWaveID() string {
	return time.Now().UTC().Format("20060102T150405Z") + "-" + strconv.FormatUint(uint64(rand.Uint32()), 36)
}

// interrupts makes two Ctrl-C: at the first, stop is closed and what is in
// flight is finished; at the second, hard ends.
func (j *job) interrupts(ctx context.Context, meter *report.Meter) (stop chan struct{}, hard context.Context, release func()) {
	hard, cancel := context.WithCancel(ctx)
	stop = make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-hard.Done():
				return
			case <-signals:
			}
			if n > 0 {
				cancel()
				return
			}
			close(stop)
			fmt.Fprintln(meter.Over(j.streams.err), "gatehouse: stopping; finishing the hosts in flight (again to stop at once)")
		}
	}()
	return stop, hard, func() {
		signal.Stop(signals)
		cancel()
	}
}

// meter draws the progress on standard error, if that is a terminal.
func (j *job) meter() *report.Meter {
	m := &report.Meter{}
	if f, ok := j.streams.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) && !j.outputs.Quiet {
		m.Terminal, m.Width = f, width(f)
	}
	return m
}

// showProgress draws until the returned function is called.
func (j *job) showProgress(ctx context.Context, meter *report.Meter) (end func()) {
	w := j.wave
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer meter.Clear()
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		start, before := time.Now(), w.Visited.Load()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// The wave counts open ports and open Ollamas; to a reader, open is
			// the outcome, and found is what answered at all.
			p := report.Progress{Places: w.Places, Visited: w.Visited.Load(), Open: w.Found.Load(), Found: w.Open.Load()}
			p.Rate = float64(p.Visited-before) / time.Since(start).Seconds()
			if p.Rate > 0 && p.Places > p.Visited {
				p.Left = time.Duration(float64(p.Places-p.Visited) / p.Rate * float64(time.Second))
			}
			meter.Show(p)
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// lineReporter says which lines of the input could not be used: the first few
// one by one, the rest as a count.
type lineReporter struct {
	w     io.Writer
	name  string // of the input; "" is standard input
	left  int
	first error
}

func (l *lineReporter) report(line int, err error) {
	if l.first == nil {
		l.first = err
	}
	if l.left--; l.left >= 0 {
		fmt.Fprintf(l.w, "gatehouse: %s, line %d: %s\n", report.Clean(cmp.Or(l.name, "standard input")), line, report.Clean(err.Error()))
	}
}

func (l *lineReporter) end(bad uint64) {
	if l.left < 0 {
		fmt.Fprintf(l.w, "gatehouse: %s: %d lines in all could not be used\n", report.Clean(cmp.Or(l.name, "standard input")), bad)
	}
}

// options are how to write to w: as wide as its terminal, in colour if it is one.
func options(w io.Writer) report.Options {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return report.Options{Width: 80}
	}
	return report.Options{Width: width(f), Color: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func width(f *os.File) int {
	if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
		return columns
	}
	return 80
}

// maxFile bounds the small files that are read whole.
const maxFile = 1 << 20

// openFile opens a file to read; a folder, which can be opened too, is none.
func openFile(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		_ = f.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	}
	return f, nil
}

func readFile(name string) ([]byte, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("longer than %d bytes", maxFile)}
	}
	return text, nil
}
