package report

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// What a page shows of one host at most: what a host says may be long.
const (
	cellText     = 160 // bytes of a text in a cell
	lineText     = 400 // bytes of a line of evidence
	hostFindings = 16
	hostLines    = 12 // lines of evidence of one finding
	hostExtras   = 14
)

// hostRow is what a page shows of a host. Every text in it is Clean.
type hostRow struct {
	Severity string
	Host     string // host, port and path
	Address  string // when Host is a name, or the network of an anonymous host
	Outcome  string
	Version  string
	Models   string
	Largest  string
	Hardware string
	Memory   string
	Place    string
	Network  string
	Summary  string // what stands before the fold
	Findings []rowFinding
	Extras   []string
}

type rowFinding struct {
	Title, Meta string
	Evidence    []string
	Remedy      string
}

// listed reports whether a host is worth a row: it answers as what is counted,
// or something is wrong with it.
func listed(r *wave.Record) bool {
	return len(r.Findings) > 0 || outcomeRank(r.Outcome) < outcomeRank(finding.Other)
}

func hostRowOf(r *wave.Record) hostRow {
	h := hostRow{
		Severity: string(worst(r.Findings)),
		Host:     short(hostPort(r)+r.Path, cellText),
		Outcome:  short(string(r.Outcome), cellText),
		Version:  short(version(r.Identity), cellText),
		Place:    countryName(r.Owner.Country),
		Network:  short(cmp.Or(r.Owner.Provider, r.Owner.Network), cellText),
		Summary:  cmp.Or(short(r.Reason, cellText), "details"),
	}
	if network, hash, ok := pseudonym(r.Address); ok {
		h.Host, h.Address = Clean(hash)+":"+strconv.Itoa(int(r.Port)), "in "+Clean(network)
	} else if r.Name != "" {
		h.Address = Clean(r.Address)
	}
	if n := len(r.Models); n > 0 {
		h.Models = plural(uint64(n), "model")
		h.Largest = short(largest(r.Models).Name, cellText)
	}
	if r.Hardware != nil {
		h.Hardware = short(r.Hardware.Class, cellText)
		if r.Hardware.MinMemoryBytes > 0 {
			h.Memory = "at least " + size(r.Hardware.MinMemoryBytes)
		}
	}
	var ids []string
	for i, f := range worstFirst(r.Findings) {
		ids = append(ids, short(f.ID, 60))
		if i < hostFindings {
			h.Findings = append(h.Findings, rowFindingOf(f))
		}
		if len(ids) > hostFindings {
			break
		}
	}
	if len(ids) > 0 {
		h.Summary = strings.Join(ids, ", ")
	}
	h.Extras = extras(r)
	return h
}

func worstFirst(findings []finding.Finding) []finding.Finding {
	findings = slices.Clone(findings)
	slices.SortStableFunc(findings, func(a, b finding.Finding) int {
		return severityRank(b.Severity) - severityRank(a.Severity)
	})
	return findings
}

func rowFindingOf(f finding.Finding) rowFinding {
	meta := []string{string(f.Severity) + " " + strconv.FormatFloat(base(f.Score), 'f', 1, 64), short(f.ID, 60)}
	if len(f.CVEs) > 0 {
		cves := cleanAll(f.CVEs[:min(len(f.CVEs), 24)])
		for i := range cves {
			cves[i] = short(cves[i], 40)
		}
		if more := len(f.CVEs) - len(cves); more > 0 {
			cves = append(cves, "and "+count(uint64(more))+" more")
		}
		meta = append(meta, strings.Join(cves, ", "))
	}
	out := rowFinding{
		Title: short(cmp.Or(f.Title, f.ID), 300), Meta: Clean(strings.Join(meta, " · ")), Remedy: short(f.Remedy, 1000),
	}
	for _, line := range f.Evidence[:min(len(f.Evidence), hostLines)] {
		out.Evidence = append(out.Evidence, short(line, lineText))
	}
	if more := len(f.Evidence) - len(out.Evidence); more > 0 {
		out.Evidence = append(out.Evidence, "… "+plural(uint64(more), "line")+" more")
	}
	return out
}

// extras are the lines on a host that no finding says.
func extras(r *wave.Record) (lines []string) {
	add := func(label string, parts ...string) {
		parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
		if len(parts) > 0 {
			lines = append(lines, label+": "+strings.Join(parts, " · "))
		}
	}
	for i := range r.Notes[:min(len(r.Notes), 4)] {
		add("Note", short(NoteLine(&r.Notes[i]), lineText))
	}
	p := r.Powers
	var powers []string
	for _, power := range []struct {
		name  string
		state finding.State
	}{{"read", p.Read}, {"infer", p.Infer}, {"manage", p.Manage}, {"account", p.Account}} {
		if power.state != "" && power.state != finding.Unknown {
			powers = append(powers, power.name+" "+short(string(power.state), 20))
		}
	}
	add("A stranger may", powers...)
	if len(r.Findings) > 0 {
		add("Why "+short(string(r.Outcome), 20), short(r.Reason, lineText))
	}
	for _, m := range r.Running[:min(len(r.Running), 3)] {
		add("In memory", short(m.Name, cellText), size(m.SizeBytes))
	}
	models := slices.Clone(r.Models)
	slices.SortStableFunc(models, func(a, b finding.Model) int { return cmp.Compare(b.SizeBytes, a.SizeBytes) })
	var names []string
	for _, m := range models[:min(len(models), 8)] {
		names = append(names, short(m.Name, 80)+" ("+size(m.SizeBytes)+")")
	}
	if more := len(models) - len(names); more > 0 {
		names = append(names, "and "+count(uint64(more))+" more")
	}
	add("Models", names...)
	if r.Hardware != nil {
		add("Hardware rests on", short(r.Hardware.Basis, lineText))
	}
	if t := r.TLS; t != nil {
		name := ""
		if len(t.Names) > 0 {
			name = short(strings.Join(t.Names[:min(len(t.Names), 4)], ", "), cellText)
		}
		add("TLS", short(t.Version, 40), name, short(t.Invalid, cellText))
	}
	var network []string
	if r.Owner.ASN != 0 {
		network = append(network, "AS"+strconv.FormatUint(uint64(r.Owner.ASN), 10))
	}
	add("Network", append(network, short(r.Owner.Network, cellText), short(r.Owner.Name, cellText), short(r.Owner.Contact, cellText))...)
	for _, c := range r.Owner.Claims[:min(len(r.Owner.Claims), 6)] {
		add("Claim", short(c.What, 40)+" "+short(c.Value, cellText), short(c.Source, cellText), strconv.FormatFloat(round(c.Confidence), 'f', -1, 64))
	}
	if !r.ObservedAt.IsZero() {
		add("Seen", r.ObservedAt.UTC().Format("2006-01-02 15:04 UTC"))
	}
	return lines[:min(len(lines), hostExtras)]
}

// spool is the rows of a page on their way into order: the rows in a temporary
// file, in memory only what they are ordered by. So a page of a hundred thousand
// hosts takes little memory, and nothing is written before all was read.
type spool struct {
	file  *os.File
	w     *bufio.Writer
	at    int64
	rows  []spooled
	kinds map[string]*kind
	hosts uint64 // all there were, with a row or not
}

type spooled struct {
	rank
	at     int64
	length int
}

// kind is one kind of finding over all hosts.
type kind struct {
	finding.Finding // as the first of the hosts that it is worst on has it
	rank            rank
	Hosts           uint64
}

// spoolOf reads hosts to their end. It is to be closed.
func spoolOf(hosts Hosts) (*spool, error) {
	f, err := os.CreateTemp("", "gatehouse-report-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	s := &spool{file: f, w: bufio.NewWriterSize(f, 256<<10), kinds: map[string]*kind{}}
	if err := s.read(hosts); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *spool) close() {
	s.file.Close()
	os.Remove(s.file.Name())
}

func (s *spool) read(hosts Hosts) error {
	for r, err := range hosts {
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		s.hosts++
		s.count(&r)
		if !listed(&r) {
			continue
		}
		row, err := json.Marshal(hostRowOf(&r))
		if err != nil {
			return err
		}
		s.rows = append(s.rows, spooled{rankOf(&r), s.at, len(row)})
		s.at += int64(len(row))
		if _, err := s.w.Write(row); err != nil {
			return fmt.Errorf("write a temporary file: %w", err)
		}
	}
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("write a temporary file: %w", err)
	}
	slices.SortStableFunc(s.rows, func(a, b spooled) int { return a.compare(b.rank) })
	return nil
}

// count adds the findings of r to the kinds there are. A host that says it has
// a thousand kinds does not fill the page with them.
func (s *spool) count(r *wave.Record) {
	seen := map[string]bool{}
	for _, f := range r.Findings {
		k := s.kinds[f.ID]
		if k == nil {
			if len(s.kinds) >= 200 {
				continue
			}
			k = &kind{Finding: f, rank: rankOf(r)}
			s.kinds[f.ID] = k
		} else if at := rankOf(r); f.Score > k.Score || f.Score == k.Score && at.compare(k.rank) < 0 {
			k.Finding, k.rank = f, at
		}
		if !seen[f.ID] {
			seen[f.ID] = true
			k.Hosts++
		}
	}
}

// found are the kinds of findings, the worst first.
func (s *spool) found() []*kind {
	kinds := make([]*kind, 0, len(s.kinds))
	for _, k := range s.kinds {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b *kind) int {
		return cmp.Or(severityRank(b.Severity)-severityRank(a.Severity), cmp.Compare(b.Score, a.Score), cmp.Compare(b.Hosts, a.Hosts), cmp.Compare(a.ID, b.ID))
	})
	return kinds
}

func (s *spool) row(i int) (h hostRow, err error) {
	b := make([]byte, s.rows[i].length)
	if _, err := s.file.ReadAt(b, s.rows[i].at); err != nil {
		return h, fmt.Errorf("read a temporary file: %w", err)
	}
	return h, json.Unmarshal(b, &h)
}

// chunk is the rows from i to j as the page's script reads them: each text once,
// and a number for it wherever it stands.
func (s *spool) chunk(i, j int) ([]byte, error) {
	texts, index := []string{}, map[string]int{}
	text := func(s string) int {
		n, ok := index[s]
		if !ok {
			n = len(texts)
			index[s] = n
			texts = append(texts, s)
		}
		return n
	}
	all := func(list []string) []int {
		out := make([]int, len(list))
		for i, s := range list {
			out[i] = text(s)
		}
		return out
	}
	hosts := make([][]any, 0, j-i)
	for ; i < j; i++ {
		h, err := s.row(i)
		if err != nil {
			return nil, err
		}
		row := []any{}
		for _, n := range all([]string{h.Severity, h.Host, h.Address, h.Outcome, h.Version, h.Models, h.Largest, h.Hardware, h.Memory, h.Place, h.Network, h.Summary}) {
			row = append(row, n)
		}
		findings := [][]any{}
		for _, f := range h.Findings {
			findings = append(findings, []any{text(f.Title), text(f.Meta), all(f.Evidence), text(f.Remedy)})
		}
		hosts = append(hosts, append(row, findings, all(h.Extras)))
	}
	return json.Marshal(struct {
		T []string `json:"t"`
		H [][]any  `json:"h"`
	}{texts, hosts})
}
