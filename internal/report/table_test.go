package report_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/finding"
	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

func table(t *testing.T, records []wave.Record, sum wave.Summary, o report.Options) string {
	t.Helper()
	var b strings.Builder
	if err := report.Table(&b, sum, report.Records(records), o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// crowd is n open hosts and as many refused ones.
func crowd(n int) []wave.Record {
	var records []wave.Record
	for i := range n {
		r := big()
		r.Address = fmt.Sprintf("127.1.%d.%d", i/250, i%250+1)
		records = append(records, r, place(fmt.Sprintf("127.2.%d.%d", i/250, i%250+1), 11434, finding.Refused))
	}
	return records
}

func TestTableGolden(t *testing.T) {
	stopped := account(street())
	stopped.Places, stopped.Denied, stopped.Retried, stopped.Pressure = 300, 4, 7, 1234
	stopped.Stopped = "interrupted"
	only := func(r wave.Record) []wave.Record { return []wave.Record{r} }
	guarded := street()[2]
	for _, test := range []struct {
		name    string
		records []wave.Record
		sum     wave.Summary
	}{
		{"street", street(), account(street())},
		{"stopped", street(), stopped},
		{"crowd", crowd(2500), account(crowd(2500))},
		{"card-open", only(big()), account(only(big()))},
		{"card-guarded", only(guarded), account(only(guarded))},
		{"card-hostile", only(hostile()), account(only(hostile()))},
		{"nothing", nil, wave.Summary{Places: 1, Started: noon, Ended: noon}},
	} {
		for _, width := range []int{80, 120} {
			name := fmt.Sprintf("%s-%d.txt", test.name, width)
			t.Run(name, func(t *testing.T) {
				got := table(t, test.records, test.sum, report.Options{Width: width, Rows: 20})
				path := filepath.Join("testdata", name)
				if *update {
					if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(want) {
					t.Errorf("differs from %s (go test -update rewrites it):\n%s", path, got)
				}
			})
		}
	}
}

// Whatever hosts say, no line is wider than the terminal, nothing but our own
// line ends and colours controls it, and colour changes nothing but colour.
func TestTableStaysInsideTheTerminal(t *testing.T) {
	rough := append(street(), hostile(), hostile())
	long := hostile()
	long.Name, long.Models[0].Name = strings.Repeat("漢", 300), strings.Repeat("x\x1b]", 100_000)
	long.Findings[0].Title, long.Findings[0].Remedy = strings.Repeat("W", 5000), strings.Repeat("💣", 5000)
	long.Reason, long.Identity.Version = strings.Repeat("a b ", 50_000), strings.Repeat("\u202e", 50_000)
	for name, records := range map[string][]wave.Record{
		"street": rough, "one": {hostile()}, "long": {long}, "many long": {long, long, hostile()}, "none": nil,
	} {
		for _, width := range []int{1, 10, 20, 33, 40, 60, 79, 80, 99, 100, 120, 250} {
			sum := account(records)
			sum.Stopped = rude
			got := table(t, records, sum, report.Options{Width: width})
			for line := range strings.Lines(got) {
				line = strings.TrimSuffix(line, "\n")
				if w := ansi.StringWidth(line); w > width {
					t.Errorf("%s at %d: %d columns: %q", name, width, w, line)
				}
				for _, r := range line {
					if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
						t.Fatalf("%s at %d: %U reaches the terminal: %q", name, width, r, line)
					}
				}
			}
			if lines := strings.Count(got, "\n"); width >= 40 && lines > 250 {
				t.Errorf("%s at %d: %d lines", name, width, lines)
			}
			if width < 40 {
				continue // cut in other places
			}
			colored := table(t, records, sum, report.Options{Width: width, Color: true})
			if plain := ansi.Strip(colored); plain != got {
				a, b := strings.Split(plain, "\n"), strings.Split(got, "\n")
				for i := range min(len(a), len(b)) {
					if a[i] != b[i] {
						t.Errorf("%s at %d: colour changes the text from\n%q to\n%q", name, width, b[i], a[i])
					}
				}
			}
			if len(records) > 0 && !strings.Contains(colored, "\x1b[") {
				t.Errorf("%s at %d: no colour", name, width)
			}
		}
	}
}

func TestTableShowsEveryAddressThatFits(t *testing.T) {
	got := table(t, street(), account(street()), report.Options{})
	for _, r := range street() {
		if r.Name == "" && !strings.Contains(r.Address, "2001") && !strings.Contains(got, r.Address+":") {
			t.Errorf("%s is not in the table", r.Address)
		}
	}
	if !strings.Contains(got, "5678]:11434") {
		t.Error("the port of the long address is cut off")
	}
	// Two addresses of one name are told apart by address.
	twin := street()[2]
	twin.Address = "127.0.0.41"
	got = table(t, []wave.Record{street()[2], twin}, wave.Summary{}, report.Options{})
	if !strings.Contains(got, "127.0.0.40:443/ollama") || !strings.Contains(got, "127.0.0.41:443/ollama") {
		t.Errorf("twins of a name look alike:\n%s", got)
	}
}

func TestTableCountsAllAndListsTheWorst(t *testing.T) {
	records := crowd(6000)
	worst := place("127.9.9.9", 11434, finding.Open)
	worst.Findings = []finding.Finding{openFinding}
	for i := range records {
		if records[i].Outcome == finding.Open {
			records[i].Findings = []finding.Finding{cleartextFinding, cleartextFinding}
		}
	}
	records = append(records, worst) // comes last, and belongs first
	got := table(t, records, account(records), report.Options{Rows: 10})
	for _, want := range []string{
		"6,001 of 12,001 places answer strangers", "… 5,991 more: --format csv",
		"… 6,000 places with nothing of interest", "6,000 hosts", "1 host\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if first, second := strings.Index(got, "127.9.9.9:"), strings.Index(got, "127.1.0.1:"); first < 0 || second < first {
		t.Errorf("the worst is not listed first:\n%s", got)
	}
	if n := strings.Count(got, "127.1."); n != 9 {
		t.Errorf("%d other rows, want 9", n)
	}
}

func TestTableStopsAtAnError(t *testing.T) {
	lost := errors.New("disk is gone")
	var b strings.Builder
	err := report.Table(&b, wave.Summary{}, failing(lost), report.Options{})
	if !errors.Is(err, lost) || b.Len() > 0 {
		t.Errorf("err %v, wrote %q", err, b.String())
	}
}

// failing yields one record and then an error.
func failing(err error) report.Hosts {
	return func(yield func(wave.Record, error) bool) {
		if yield(big(), nil) {
			yield(wave.Record{}, err)
		}
	}
}

func TestSummaryAccountsForEverything(t *testing.T) {
	sum := wave.Summary{
		Started: noon, Ended: noon.Add(90 * 1e9), Seed: 42, Places: 1000, Visited: 900, Denied: 40,
		Outcomes: map[finding.Outcome]uint64{finding.Open: 5, finding.Refused: 890},
		Severity: map[finding.Severity]uint64{finding.Critical: 5, finding.Low: 2},
		Retried:  1, Pressure: 2, Stopped: "interrupted",
	}
	var b strings.Builder
	if err := report.Summary(&b, sum, report.Options{Width: 200}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1,000 asked, 900 visited, 40 outside the scope and not touched, 60 not visited",
		"interrupted", "5 open · 890 refused · 5 without an outcome", "5 critical · 2 low",
		"1 attempt made again, 2 attempts delayed", "1m30s, 10 places a second", "--seed 42 ",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestSort(t *testing.T) {
	sorted := street()
	report.Sort(sorted)
	var got []string
	for _, r := range sorted {
		got = append(got, r.Address)
	}
	want := []string{
		"127.0.0.7", "127.0.0.19", "2001:db8:1234:5678:9abc:def0:1234:5678", // critical and open, by address
		"127.0.0.8",                                           // medium
		"127.0.0.40", "127.0.0.9", "127.0.0.23", "127.0.0.31", // nothing found, by outcome
		"127.0.0.2", "127.0.0.12", "127.0.0.99", "127.0.0.100",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	a, b := place("127.0.0.1", 80, finding.Open), place("127.0.0.1", 443, finding.Open)
	if report.Compare(a, b) >= 0 || report.Compare(b, a) <= 0 || report.Compare(a, a) != 0 {
		t.Error("ports are not in order")
	}
}
