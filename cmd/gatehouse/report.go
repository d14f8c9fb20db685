package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gatehouse/internal/finding"
	"gatehouse/internal/report"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

type reportCmd struct {
	Source   string `arg:"" help:"A wave that was saved (its number, its id, or last), or a file of JSON Lines as gatehouse scan --format jsonl writes it."`
	StateDir string `help:"Where waves are kept." placeholder:"DIR"`
	Stores   `embed:""`
	Since    string `help:"The earlier wave that changes are counted from (default: the one before over the same places)." placeholder:"WAVE"`

	Reports `embed:"" group:"What to write (- is standard output):"`
}

// Reports are the flags about the reports of one wave.
type Reports struct {
	HTML         string `name:"html" help:"One page that needs nothing else, for reading and for sending." placeholder:"FILE"`
	PDF          string `name:"pdf" help:"The same page, printed by the Chromium of this machine." placeholder:"FILE"`
	CSV          string `name:"csv" help:"A row for each host, for spreadsheets." placeholder:"FILE"`
	JSONL        string `name:"jsonl" help:"A record for each host, for programs." placeholder:"FILE"`
	SARIF        string `name:"sarif" help:"SARIF 2.1.0, for code scanning and tickets." placeholder:"FILE"`
	STIX         string `name:"stix" help:"A bundle of STIX 2.1, for threat intelligence platforms." placeholder:"FILE"`
	Markdown     string `name:"markdown" help:"GitHub's Markdown, for issues and wikis." placeholder:"FILE"`
	DefectDojo   string `name:"defectdojo" help:"DefectDojo's Generic Findings Import." placeholder:"FILE"`
	Shadowserver string `name:"shadowserver" help:"CSV in the columns of Shadowserver's scan reports, which IntelMQ reads." placeholder:"FILE"`

	Title        string `help:"Title of the report (default: the scope's)." placeholder:"TEXT" group:"How:"`
	Anonymise    bool   `help:"For publication: addresses cut to /24 and /48 with a keyed hash; names, contacts and what hosts said left out." group:"How:"`
	AnonymiseKey string `help:"File with the key of the hash, 16 bytes or more, so that a host has the same hash in every report (default: a new key, kept nowhere)." placeholder:"FILE" group:"How:"`
}

func (reportCmd) Help() string {
	return `Without a flag that names a file, the table is written to standard output. Every file appears whole or not at all. A wave that was saved brings its method, its trend, what changed since the wave before, and the notes on its hosts.

Examples:
  gatehouse report last --html report.html --sarif findings.sarif
  gatehouse scan --format jsonl -o wave.jsonl 192.168.1.0/24
  gatehouse report wave.jsonl --html report.html --pdf report.pdf
  gatehouse report wave.jsonl --anonymise --html public.html --csv public.csv
  gatehouse report wave.jsonl --stix - --title "Campus network"`
}

func (c *reportCmd) Run(ctx context.Context, s streams) error {
	if err := c.check(); err != nil {
		return err
	}
	f, err := openFile(c.Source)
	if errors.Is(err, fs.ErrNotExist) && !strings.ContainsAny(c.Source, `/\.`) {
		return c.saved(ctx, s)
	}
	if err != nil {
		return usage(err, "gatehouse report takes a wave that was saved, or a file that gatehouse scan --format jsonl wrote")
	}
	if err := f.Close(); err != nil {
		return err
	}
	hosts := recordsIn(c.Source)
	d, err := dataOf(hosts)
	if err != nil {
		return err
	}
	d.Method = []string{"Read from a scan's records. The account is of the hosts that are in them: places that kept silent or refused are there only if the scan was told to write all."}
	return c.write(ctx, s, d)
}

// saved reports on a wave of the store.
func (c *reportCmd) saved(ctx context.Context, s streams) error {
	return withStore(c.StateDir, &c.Stores, func(st *store.Store) error {
		i, err := finished(st, c.Source)
		if err != nil {
			return err
		}
		d := report.Data{
			Version: versionString(), Summary: *i.Summary, Tally: *i.Tally, Method: i.Method.Lines(),
			Hosts: report.Hosts(st.Records(i.Number)),
		}
		list, err := course(st, i.Scope)
		if err != nil {
			return err
		}
		for _, e := range list {
			if !e.Started.After(i.Started) {
				d.Trend = append(d.Trend, report.Point{Date: e.Started, Tally: *e.Tally})
			}
		}
		if len(d.Trend) < 2 {
			d.Trend = nil
		}
		earlier := before(list, &i, i.Comparable)
		if c.Since != "" {
			e, err := finished(st, c.Since)
			if err != nil {
				return err
			}
			if !e.Started.Before(i.Started) {
				return usage(fmt.Errorf("--since %s: wave %d began after wave %d", c.Since, e.Number, i.Number), "--since takes an earlier wave")
			}
			if !e.Comparable(&i) {
				return usage(fmt.Errorf("--since %s: waves %d and %d looked at different places", c.Since, e.Number, i.Number), "gatehouse wave list shows the waves of each scope")
			}
			earlier = &e
		}
		if earlier != nil {
			cmp, err := compare(st, earlier, &i, wave.CompareOptions{Limit: 1})
			if err != nil {
				return err
			}
			d.Changes = &report.Changes{
				Since: earlier.Started, New: cmp.New, Gone: cmp.Gone, Fixed: cmp.Fixed, Reopened: cmp.Reopened,
				Moved: cmp.Moved, Changed: cmp.Changed, NotSeen: cmp.NotSeen,
			}
		}
		if i.Watched != nil {
			a := i.Watched.Activities
			if _, _, ok := a.Active(); ok {
				d.Active = &report.Share{
					Part: a[wave.Active], Whole: a[wave.Active] + a[wave.Resident] + a[wave.Pinned] + a[wave.Idle],
					Method: fmt.Sprintf("in %d looks, a model in memory whose time to be unloaded moved", i.Looks),
				}
			}
		}
		return c.write(ctx, s, d)
	})
}

// recordsIn are the records in a file of JSON Lines. It is read anew each time,
// so that no more than one record is in memory.
func recordsIn(name string) report.Hosts {
	return func(yield func(wave.Record, error) bool) {
		f, err := openFile(name)
		if err != nil {
			yield(wave.Record{}, err)
			return
		}
		defer f.Close()
		lines := bufio.NewReaderSize(f, 1<<20)
		for n := 1; ; n++ {
			line, err := readLine(lines)
			if err != nil && !errors.Is(err, io.EOF) {
				yield(wave.Record{}, fmt.Errorf("%s, line %d: %w", name, n, err))
				return
			}
			if len(bytes.TrimSpace(line)) > 0 {
				var r wave.Record
				if err := json.Unmarshal(line, &r); err != nil || r.Address == "" || r.Outcome == "" {
					yield(r, fmt.Errorf("%s, line %d is no record of a scan", name, n))
					return
				}
				if !yield(r, nil) {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
}

// maxLine bounds one record: eight times the bytes that a host may send, for
// what JSON makes of them.
const maxLine = 64 << 20

func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxLine {
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// dataOf counts hosts, and makes of their times and names the account that the
// file does not have.
func dataOf(hosts report.Hosts) (report.Data, error) {
	d := report.Data{Version: versionString(), Hosts: hosts}
	sum := wave.Summary{Outcomes: map[finding.Outcome]uint64{}, Severity: map[finding.Severity]uint64{}}
	for r, err := range hosts {
		if err != nil {
			return d, err
		}
		d.Tally.Add(&r)
		sum.Wave = r.Wave
		sum.Places++
		sum.Visited++
		sum.Outcomes[r.Outcome]++
		for _, f := range r.Findings {
			sum.Severity[f.Severity]++
		}
		at := r.ObservedAt
		if sum.Started.IsZero() || at.Before(sum.Started) {
			sum.Started = at
		}
		if at.After(sum.Ended) {
			sum.Ended = at
		}
	}
	d.Summary = sum
	return d, nil
}

// files are the files asked for, and what writes each.
func (c *Reports) files(ctx context.Context, d report.Data) []reportFile {
	files := []reportFile{
		{"html", c.HTML, func(w io.Writer) error { return report.HTML(w, d) }},
		{"pdf", c.PDF, func(w io.Writer) error { return report.PDF(ctx, w, d) }},
		{"csv", c.CSV, func(w io.Writer) error { return report.CSV(w, d.Hosts) }},
		{"jsonl", c.JSONL, func(w io.Writer) error {
			lines := report.NewLines(w)
			for r, err := range d.Hosts {
				if err != nil {
					return err
				}
				if err := lines.Write(r); err != nil {
					return err
				}
			}
			return nil
		}},
		{"sarif", c.SARIF, func(w io.Writer) error { return report.SARIF(w, d.Version, d.Summary, d.Hosts) }},
		{"stix", c.STIX, func(w io.Writer) error { return report.STIX(w, d) }},
		{"markdown", c.Markdown, func(w io.Writer) error { return report.Markdown(w, d) }},
		{"defectdojo", c.DefectDojo, func(w io.Writer) error { return report.DefectDojo(w, d) }},
		{"shadowserver", c.Shadowserver, func(w io.Writer) error { return report.Shadowserver(w, d.Hosts) }},
	}
	asked := files[:0]
	for _, f := range files {
		if f.path != "" {
			asked = append(asked, f)
		}
	}
	return asked
}

type reportFile struct {
	flag, path string
	write      func(io.Writer) error
}

// check says before the hosts are read what could not be written after.
func (c *Reports) check() error {
	if c.AnonymiseKey != "" && !c.Anonymise {
		return usage(errors.New("--anonymise-key without --anonymise"), "add --anonymise")
	}
	paths := map[string]string{}
	for _, f := range c.files(context.Background(), report.Data{}) {
		path := filepath.Clean(f.path)
		if other := paths[path]; other != "" {
			return usage(fmt.Errorf("--%s and --%s name the same file", other, f.flag), "give each a file of its own")
		}
		paths[path] = f.flag
		if path == "-" {
			continue
		}
		if err := writable(path); err != nil {
			return usage(fmt.Errorf("--%s %s: %w", f.flag, f.path, err), "--"+f.flag+" takes a file that can be written")
		}
	}
	if c.PDF != "" {
		if _, err := report.Browser(); err != nil {
			return usage(fmt.Errorf("--pdf: %w", err), "install Chromium (Debian: apt install chromium), or write --html and print it from a browser")
		}
	}
	return nil
}

// write writes what is asked for, and the table when nothing is.
func (c *Reports) write(ctx context.Context, s streams, d report.Data) error {
	if c.Title != "" {
		d.Title = c.Title
	}
	if c.Anonymise {
		key, err := c.key()
		if err != nil {
			return err
		}
		d = d.Anonymise(key)
	}
	files := c.files(ctx, d)
	if len(files) == 0 {
		return report.Table(s.out, d.Summary, d.Hosts, options(s.out))
	}
	for _, f := range files {
		if f.path == "-" {
			b := bufio.NewWriter(s.out)
			if err := errors.Join(f.write(b), b.Flush()); err != nil {
				return err
			}
			continue
		}
		start := time.Now()
		if err := report.WriteFile(f.path, f.write); err != nil {
			return err
		}
		if info, err := os.Stat(f.path); err == nil {
			fmt.Fprintf(s.err, "%s  %s, %.1f s\n", report.Clean(f.path), bytesOf(info.Size()), time.Since(start).Seconds())
		}
	}
	return nil
}

// bytesOf shows the size of a file.
func bytesOf(n int64) string {
	if n < 1_000_000 {
		return fmt.Sprintf("%.0f kB", float64(max(n, 500))/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

// key is the key of the hash: the operator's, or a new one.
func (c *Reports) key() ([]byte, error) {
	if c.AnonymiseKey == "" {
		key := make([]byte, 32)
		rand.Read(key) // never fails
		return key, nil
	}
	key, err := readFile(c.AnonymiseKey)
	if err != nil {
		return nil, usage(err, "--anonymise-key takes a file with 16 random bytes or more")
	}
	if key = []byte(strings.TrimSpace(string(key))); len(key) < 16 {
		return nil, usage(fmt.Errorf("--anonymise-key %s: %d bytes are too few", c.AnonymiseKey, len(key)), "such as: head -c 32 /dev/urandom | base64 > key")
	}
	return key, nil
}
