//go:build linux

package e2e

import (
	"cmp"
	"database/sql"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	_ "modernc.org/sqlite"

	"gatehouse/internal/ollama/ollamatest"
)

// counts is one published table: how many of each.
type counts map[string]uint64

// tables are what a wave counts, by the names that its JSON has, computed from
// the truth.
func tables(world map[netip.Addr]house) (open uint64, all map[string]counts, outcomes counts, eu, loaded, listed, detailed uint64) {
	outcomes = make(counts)
	all = make(map[string]counts)
	for _, name := range []string{"countries", "providers", "networks", "models", "families", "parameters", "quantizations", "bits", "capabilities", "hardware", "versions", "findings"} {
		all[name] = make(counts)
	}
	for _, h := range world {
		if h.kind == "silent" {
			continue
		}
		outcomes[h.kind]++
		if h.kind != "open" {
			continue
		}
		open++
		s := h.server
		n := networks[s.net]
		all["countries"][n.country]++
		all["providers"][cmp.Or(n.provider, "unknown")]++
		all["networks"][fmt.Sprintf("AS%d %s", n.asn, n.name)]++
		all["versions"][servedVersions[s.version].version]++
		if union[n.country] {
			eu++
		}
		if s.loaded {
			loaded++
		}
		families, abilities := make(counts), make(counts)
		class := 0
		add := func(name string, d *disk) {
			m := ollamatest.Library(d.name)[0]
			listed++
			all["models"][name]++
			all["parameters"][d.parameters]++
			all["bits"][d.bits]++
			all["quantizations"][m.Quant]++
			families[m.Family] = 1
			for _, a := range m.Abilities {
				abilities[a] = 1
			}
			class = max(class, slices.Index(classes, d.hardware))
		}
		for _, m := range s.models {
			add(disks[m].name, &disks[m])
		}
		if s.own > 0 {
			add(ownName(s.own), &disks[0])
		}
		if s.loaded {
			class = max(class, slices.Index(classes, disks[s.models[0]].loaded))
		}
		for f := range families {
			all["families"][f]++
		}
		if servedVersions[s.version].capable {
			detailed++
			for a := range abilities {
				all["capabilities"][a]++
			}
		}
		all["hardware"][classes[class]]++
		all["findings"]["ollama-open"]++
		all["findings"]["ollama-cleartext"]++
		if servedVersions[s.version].outdated {
			all["findings"]["ollama-outdated"]++
		}
		if class >= slices.Index(classes, station48) {
			all["findings"]["ollama-large-hardware"]++
		}
	}
	return open, all, outcomes, eu, loaded, listed, detailed
}

// thousands writes a count as the tables do.
func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// percent writes a share as the tables do: two digits that count.
func percent(part, whole uint64) string {
	p := 100 * float64(part) / float64(whole)
	switch {
	case p == 0:
		return "0 %"
	case p < 0.1:
		return "<0.1 %"
	case p < 9.95:
		return fmt.Sprintf("%.1f %%", p)
	}
	return fmt.Sprintf("%.0f %%", p)
}

// printed is what a table of at most ten rows prints: rank, name, count, share.
func printed(c counts, of uint64, order []string) (rows [][]string, rest string) {
	names := slices.DeleteFunc(slices.Collect(maps.Keys(c)), func(n string) bool { return n == "unknown" })
	if order != nil {
		for _, name := range order {
			if n := c[name]; n > 0 {
				rows = append(rows, []string{"", name, thousands(n), percent(n, of)})
			}
		}
		return rows, ""
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(c[b], c[a]), cmp.Compare(a, b)) })
	rank := 0
	for i, name := range names {
		if i == 0 || c[name] < c[names[i-1]] {
			rank = i + 1
		}
		if i < 10 {
			rows = append(rows, []string{strconv.Itoa(rank), name, thousands(c[name]), percent(c[name], of)})
		}
	}
	if len(names) > 10 {
		var others uint64
		for _, name := range names[10:] {
			others += c[name]
		}
		rest = fmt.Sprintf("and %s more, with %s together", thousands(uint64(len(names)-10)), thousands(others))
	}
	return rows, rest
}

var tableRow = regexp.MustCompile(`^  ([ 0-9]{3}) (.+?) {2,}([0-9,]+) +(<?[0-9.]+ %)  █+$`)

// sections reads the page that wave show prints: the rows of each table, and the
// other lines.
func sections(page string) (rows map[string][][]string, lines map[string][]string) {
	rows, lines = make(map[string][][]string), make(map[string][]string)
	title := ""
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\n")
		switch m := tableRow.FindStringSubmatch(line); {
		case m != nil:
			rows[title] = append(rows[title], []string{strings.TrimSpace(m[1]), m[2], m[3], m[4]})
		case len(line) > 1 && line[0] == ' ' && line[1] != ' ':
			title = line[1:]
		case strings.TrimSpace(line) != "":
			lines[title] = append(lines[title], strings.TrimSpace(line))
		}
	}
	return rows, lines
}

// quarter is how far apart the waves are made to be.
const quarter = 91 * 24 * time.Hour

// older makes all that a store has a quarter older, for a test cannot wait: the
// program has no clock that could be set.
func older(t *testing.T, state string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(state, "gatehouse.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	by := quarter.Milliseconds()
	back := func(column string) string {
		for _, field := range []string{"started", "ended"} {
			column = fmt.Sprintf("json_set(%s, '$.%s', strftime('%%Y-%%m-%%dT%%H:%%M:%%fZ', json_extract(%[1]s, '$.%[2]s'), '-%[3]d days'))", column, field, int(quarter.Hours()/24))
		}
		return column
	}
	for _, q := range []string{
		fmt.Sprintf("UPDATE waves SET started = started - %d, ended = ended - %[1]d, method = %s, summary = %s", by, back("method"), back("summary")),
		fmt.Sprintf("UPDATE seen SET at = at - %d", by),
	} {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCensus makes three waves over a simulated internet, a quarter apart, and
// holds every cell of what is printed of them against the truth.
func TestCensus(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	scope, targets := writeWorld(t, dir)
	run(t, "geo", "--state-dir", state, "update", "--country", filepath.Join(dir, "country.csv"), "--asn", filepath.Join(dir, "asn.csv")).exits(t, 0)

	net := newInternet(t)
	for w := 1; w <= 3; w++ {
		if w > 1 {
			older(t, state)
		}
		net.becomes(w)
		r := runVia(t, net.enter(), "scan", "--scope", scope, "--targets", targets, "--save", "--state-dir", state, "--details",
			"--rate", "1000000", "--network-rate", "1000000", "--concurrency", "1000", "--timeout", "4s", "--retries", "0", "--max-time", "60s",
			"--fail-on", "never", "--format", "csv", "--out", filepath.Join(dir, "out.csv"))
		r.exits(t, 0)
		t.Logf("wave %d in %v, %d MiB", w, r.took, r.peak>>20)
	}
	for w := 1; w <= 3; w++ {
		t.Run(fmt.Sprintf("show %d", w), func(t *testing.T) { checkShow(t, state, w) })
	}
	t.Run("trend", func(t *testing.T) { checkTrend(t, state) })
	t.Run("diff", func(t *testing.T) { checkDiff(t, state) })
}

// writeWorld writes the scope, the targets and the two databases.
func writeWorld(t *testing.T, dir string) (scope, targets string) {
	t.Helper()
	var include, list, country, asn strings.Builder
	for n, net := range networks {
		p := prefixOf(n)
		first, last := p.Addr(), p.Addr().As4()
		last[2], last[3] = last[2]|0x1f, 0xff
		fmt.Fprintf(&include, "  - %s\n", p)
		fmt.Fprintf(&list, "%s-%s\n", first, addressIn(n, inNetwork-1))
		fmt.Fprintf(&country, "%s,%s,%s\n", first, netip.AddrFrom4(last), net.country)
		fmt.Fprintf(&asn, "%s,%s,%d,\"%s\"\n", first, netip.AddrFrom4(last), net.asn, net.name)
	}
	scope, targets = filepath.Join(dir, "scope.yaml"), filepath.Join(dir, "targets")
	for name, text := range map[string]string{
		scope: fmt.Sprintf("name: census\nauthority: the test's own internet\ncontact: mailto:census@example.org\nexpires: %s\ninclude:\n%sports: [%d]\n",
			time.Now().AddDate(0, 1, 0).Format(time.DateOnly), include.String(), ollamaPort),
		targets: list.String(), filepath.Join(dir, "country.csv"): country.String(), filepath.Join(dir, "asn.csv"): asn.String(),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return scope, targets
}

// same fails the test where two tables differ, with each cell that does.
func same(t *testing.T, what string, got, want counts) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] {
			t.Errorf("%s, %s: %d, the truth is %d", what, key, got[key], want[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			t.Errorf("%s, %s: %d, the truth has none", what, key, got[key])
		}
	}
}

func checkShow(t *testing.T, state string, wave int) {
	world := internetAt(wave)
	open, want, outcomes, eu, loaded, listed, detailed := tables(world)

	var got struct {
		Tally   map[string]any `json:"tally"`
		Summary struct {
			Places   uint64 `json:"places"`
			Visited  uint64 `json:"visited"`
			Outcomes counts `json:"outcomes"`
		} `json:"summary"`
	}
	r := run(t, "wave", "--state-dir", state, "show", strconv.Itoa(wave), "--json")
	r.exits(t, 0)
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatal(err)
	}
	same(t, "all", asTable(map[string]any{
		"open": got.Tally["open"], "eu": got.Tally["eu"], "placed": got.Tally["placed"], "loaded": got.Tally["loaded"],
		"detailed": got.Tally["detailed"], "sized": got.Tally["sized"], "listed": got.Tally["listed"], "remote": got.Tally["remote"], "hosts": got.Tally["hosts"],
	}), counts{
		"open": open, "eu": eu, "placed": open, "loaded": loaded, "detailed": detailed, "sized": open, "listed": listed, "remote": 0,
		"hosts": outcomes["open"] + outcomes["guarded"] + outcomes["lookalike"] + outcomes["honeypot"] + outcomes["other"],
	})
	same(t, "outcomes", asTable(got.Tally["outcomes"].(map[string]any)), outcomes)
	places := uint64(len(networks) * inNetwork)
	whole := maps.Clone(outcomes)
	whole["silent"] = hole
	whole["refused"] = places - uint64(len(world))
	same(t, "summary", got.Summary.Outcomes, whole)
	if got.Summary.Places != places || got.Summary.Visited != places {
		t.Errorf("%d places, %d visited, want %d", got.Summary.Places, got.Summary.Visited, places)
	}
	for name, table := range want {
		same(t, name, asTable(got.Tally[name].(map[string]any)), table)
	}

	r = run(t, "wave", "--state-dir", state, "show", strconv.Itoa(wave))
	r.exits(t, 0)
	rows, lines := sections(r.out)
	for title, table := range map[string]struct {
		name  string
		of    uint64
		order []string
	}{
		"Countries": {"countries", open, nil}, "Providers": {"providers", open, nil}, "Networks": {"networks", open, nil},
		"Models": {"models", open, nil}, "Versions": {"versions", open, nil}, "Findings": {"findings", open, nil},
		"Parameters, share of models":                     {"parameters", listed, []string{"<1B", "1-3B", "3-8B", "8-15B", "15-35B", "35-80B", "80B+"}},
		"Bits a weight, share of models":                  {"bits", listed, nil},
		"Capabilities, share of servers asked for them":   {"capabilities", detailed, nil},
		"Hardware, the least that explains what is there": {"hardware", open, nil},
	} {
		cells, rest := printed(want[table.name], table.of, table.order)
		sameRows(t, title, rows[title], cells)
		if rest != "" && !slices.Contains(lines[title], rest) {
			t.Errorf("%s: no line %q in %q", title, rest, lines[title])
		}
	}
	head := strings.Join(slices.Concat(slices.Collect(maps.Values(lines))...), "\n")
	for _, line := range []string{
		fmt.Sprintf("%s open to strangers   %s guarded   %s answered", thousands(open), thousands(outcomes["guarded"]), thousands(open+outcomes["guarded"]+outcomes["lookalike"]+outcomes["honeypot"]+outcomes["other"])),
		fmt.Sprintf("%s in the European Union: %s of the %s whose country is known", percent(eu, open), thousands(eu), thousands(open)),
		percent(loaded, open) + " had a model in memory",
		fmt.Sprintf("of %s more it is not known", thousands(want["providers"]["unknown"])),
		"country.csv of", "asn.csv of", "Ports: 11434.", "census; 200,000 places, 200,000 visited",
	} {
		if !strings.Contains(head, line) {
			t.Errorf("no line %q in\n%s", line, r.out)
		}
	}
	if wave > 1 {
		before, _, _, _, _, _, _ := tables(internetAt(wave - 1))
		line := fmt.Sprintf("×%.1f the %s of wave %d, 91 days before", float64(open)/float64(before), thousands(before), wave-1)
		if !strings.Contains(head, line) {
			t.Errorf("no line %q in\n%s", line, r.out)
		}
	}
}

func asTable(m map[string]any) counts {
	c := make(counts)
	for key, v := range m {
		n, _ := v.(float64)
		c[key] = uint64(n)
	}
	return c
}

func sameRows(t *testing.T, what string, got, want [][]string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("%s, row %d: none, the truth is %q", what, i+1, want[i])
		case i >= len(want):
			t.Errorf("%s, row %d: %q, the truth has none", what, i+1, got[i])
		case !slices.Equal(got[i], want[i]):
			t.Errorf("%s, row %d: %q, the truth is %q", what, i+1, got[i], want[i])
		}
	}
}

func checkTrend(t *testing.T, state string) {
	r := run(t, "wave", "--state-dir", state, "trend", "census")
	r.exits(t, 0)
	var got [][]string
	cells := regexp.MustCompile(`^ +([0-9]+)  ([0-9-]{10}) +([0-9,]+) +(×[0-9.]+)? +([0-9.]+ %) +([0-9,]+)  (.*)$`)
	for line := range strings.Lines(r.out) {
		if m := cells.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			got = append(got, m[1:])
		}
	}
	var want [][]string
	var before uint64
	for w := 1; w <= 3; w++ {
		open, all, outcomes, eu, _, _, _ := tables(internetAt(w))
		rows, _ := printed(all["countries"], open, nil)
		var top []string
		for _, row := range rows[:3] {
			top = append(top, fmt.Sprintf("%s %.0f %%", row[1], 100*float64(all["countries"][row[1]])/float64(open)))
		}
		growth := ""
		if before > 0 {
			growth = fmt.Sprintf("×%.1f", math.Round(10*float64(open)/float64(before))/10)
		}
		before = open
		day := time.Now().UTC().Add(-time.Duration(3-w) * quarter).Format(time.DateOnly)
		want = append(want, []string{strconv.Itoa(w), day, thousands(open), growth, percent(eu, open), thousands(outcomes["guarded"]), strings.Join(top, ", ")})
	}
	sameRows(t, "trend", got, want)
}

func checkDiff(t *testing.T, state string) {
	for _, c := range []struct {
		before, after, looks int
		head                 string
		want                 counts
		changed              string
	}{
		{1, 2, 2, "3,050 open, now 3,000", counts{"fixed": reopening, "not seen": returning}, ""},
		{2, 3, 2, "3,000 open, now 2,900", counts{
			"new": appearing, "not seen": vanishing, "fixed": fixing, "moved": moving, "reopened": reopening, "returned": returning, "changed": upgraded + restocked,
		}, fmt.Sprintf("changed: models %d, version %d", restocked, upgraded)},
		// One look is enough here, so that who was away for one was gone.
		{2, 3, 1, "3,000 open, now 2,900", counts{
			"new": appearing, "gone": vanishing, "fixed": fixing, "moved": moving, "reopened": reopening + returning, "changed": upgraded + restocked,
		}, fmt.Sprintf("changed: models %d, version %d", restocked, upgraded)},
		{1, 3, 2, "3,050 open, now 2,900", counts{
			"new": appearing, "not seen": vanishing, "fixed": fixing, "moved": moving, "changed": upgraded + restocked,
		}, fmt.Sprintf("changed: models %d, version %d", restocked, upgraded)},
	} {
		args := []string{"wave", "--state-dir", state, "diff", strconv.Itoa(c.before), strconv.Itoa(c.after), "--looks", strconv.Itoa(c.looks)}
		r := run(t, args...)
		r.exits(t, 0)
		got := make(counts)
		row := regexp.MustCompile(`^ +([0-9,]+)  (new|reopened|moved|returned|fixed|gone|not seen|reclassed|changed) +[a-z]`)
		for line := range strings.Lines(r.out) {
			if m := row.FindStringSubmatch(line); m != nil {
				n, _ := strconv.ParseUint(strings.ReplaceAll(m[1], ",", ""), 10, 64)
				got[m[2]] = n
			}
		}
		want := counts{"new": 0, "reopened": 0, "moved": 0, "returned": 0, "fixed": 0, "gone": 0, "not seen": 0, "reclassed": 0, "changed": 0}
		maps.Copy(want, c.want)
		same(t, fmt.Sprintf("diff %d %d --looks %d", c.before, c.after, c.looks), got, want)
		for _, line := range []string{c.head, c.changed} {
			if !strings.Contains(r.out, line) {
				t.Errorf("%v: no %q in\n%s", r, line, r.out)
			}
		}
		checkEach(t, run(t, append(args, "--format", "jsonl")...), c.before, c.after, c.looks)
	}
}

// checkEach holds every difference that is told against the truth, by address.
func checkEach(t *testing.T, r result, before, after, looks int) {
	t.Helper()
	r.exits(t, 0)
	was, is, first := internetAt(before), internetAt(after), internetAt(1)
	want := make(map[string]string)
	number := make(map[int]netip.Addr) // of those that moved, by their own model
	for addr, h := range was {
		if _, ok := is[addr]; h.kind == "open" && !ok && h.server.own > 0 {
			number[h.server.own] = addr
		}
	}
	for addr, h := range is {
		old := was[addr]
		switch {
		case h.kind == "open" && old.kind == "open":
			if old.server.version != h.server.version || len(old.server.models) != len(h.server.models) {
				want[addr.String()] = "changed"
			}
		case h.kind == "open" && old.kind == "guarded":
			want[addr.String()] = "reopened"
		case h.kind == "open" && first[addr].kind == "open":
			want[addr.String()] = "returned"
			if looks == 1 {
				want[addr.String()] = "reopened"
			}
		case h.kind == "open":
			want[addr.String()] = "new"
			if from, ok := number[h.server.own]; ok && h.server.own > 0 {
				want[from.String()] = "moved to " + addr.String()
				delete(want, addr.String())
			}
		case h.kind == "guarded" && old.kind == "open":
			want[addr.String()] = "fixed"
		}
	}
	for addr, h := range was {
		if _, ok := is[addr]; h.kind == "open" && !ok && want[addr.String()] == "" {
			want[addr.String()] = "not seen"
			if looks == 1 {
				want[addr.String()] = "gone"
			}
		}
	}
	got := make(map[string]string)
	for line := range strings.Lines(r.out) {
		var d struct {
			Event string
			Place struct{ Address string }
			To    *struct{ Address string }
		}
		if err := json.Unmarshal([]byte(line), &d, json.MatchCaseInsensitiveNames(true)); err != nil {
			t.Fatal(err)
		}
		if got[d.Place.Address] != "" {
			t.Errorf("%s is told of twice", d.Place.Address)
		}
		got[d.Place.Address] = d.Event
		if d.To != nil {
			got[d.Place.Address] += " to " + d.To.Address
		}
	}
	for _, addr := range slices.Sorted(maps.Keys(want)) {
		if got[addr] != want[addr] {
			t.Errorf("%v: %s is %q, the truth is %q", r, addr, got[addr], want[addr])
		}
		delete(got, addr)
	}
	for addr, event := range got {
		t.Errorf("%v: %s is %q, and nothing became of it", r, addr, event)
	}
}
