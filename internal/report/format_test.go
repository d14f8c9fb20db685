package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"gatehouse/internal/finding"
	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

// safeToShow fails the test when text would do more to a terminal than show.
func safeToShow(t *testing.T, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("not UTF-8: %q", text)
	}
	for _, r := range text {
		if r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)) {
			t.Errorf("%U in %q", r, text)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                               "",
		"llama3.3:70b":                   "llama3.3:70b",
		`C:\models`:                      `C:\models`,
		"a\nb\r\tc":                      `a\nb\r\tc`,
		"\x1b[31mred\x1b[0m":             `\x1b[31mred\x1b[0m`,
		"\x1b]0;title\a":                 `\x1b]0;title\x07`,
		"\u009b2J\u0085":                 `\u009b2J\u0085`,
		"\x9b2J":                         `\x9b2J`,
		"\x7f\x00":                       `\x7f\x00`,
		"\u202egpj\u202c":                `\u202egpj\u202c`,
		"\u2066x\u2069\u200f\u061c":      `\u2066x\u2069\u200f\u061c`,
		"a\u200bb\u200d\ufeff\u00ad":     `a\u200bb\u200d\ufeff\u00ad`,
		"\u2028\u2029\u00a0\u3164\ufe0f": `\u2028\u2029\u00a0\u3164\ufe0f`,
		"\U000e0041\U0010ffff\ue000":     `\U000e0041\U0010ffff\ue000`,
		"\xff\xc3":                       `\xff\xc3`,
		"\xed\xa0\x80":                   `\xed\xa0\x80`,
		"Größe 漢字 🤖 ไทย":                 "Größe 漢字 🤖 ไทย",
		"e\u0301":                        "e\u0301",
		"\u0301x":                        `\u0301x`,
		"a\u0301\u0301\u0301\u0301":      "a\u0301\u0301\u0301" + `\u0301`,
		"\ufffd":                         "\ufffd",
	} {
		if got := report.Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "plain", rude, "\xff\u202e\x1b", "a\u0301\u0301\u0301\u0301\u0301"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := report.Clean(s)
		if !utf8.ValidString(got) {
			t.Fatalf("%q is not UTF-8", got)
		}
		marks := 9
		for _, r := range got {
			if !unicode.IsPrint(r) || unicode.In(r, unicode.Bidi_Control, unicode.Cf, unicode.Variation_Selector) {
				t.Fatalf("%U in %q", r, got)
			}
			if marks++; !unicode.IsMark(r) {
				marks = 0
			}
			if marks > 3 {
				t.Fatalf("too many marks in %q", got)
			}
		}
		if again := report.Clean(got); again != got {
			t.Fatalf("Clean(%q) = %q: it is clean already", got, again)
		}
	})
}

func TestLinesCanBeReadBack(t *testing.T) {
	records := append(street(), hostile(), wave.Record{})
	var b bytes.Buffer
	w := &writes{w: &b}
	lines := report.NewLines(w)
	for _, r := range records {
		if err := lines.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if w.n != len(records) {
		t.Errorf("%d writes for %d lines", w.n, len(records))
	}
	safeToShow(t, b.String())
	i := 0
	for line := range strings.Lines(b.String()) {
		var got wave.Record
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&got); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		want := records[i]
		if got.Address != want.Address || got.Port != want.Port || got.Outcome != want.Outcome ||
			len(got.Findings) != len(want.Findings) || len(got.Models) != len(want.Models) {
			t.Errorf("read %+v\nwrote %+v", got, want)
		}
		if text := strings.ToValidUTF8(want.Identity.Version, "\ufffd"); !sameText(got.Identity.Version, text) {
			t.Errorf("version %q, want %q", got.Identity.Version, text)
		}
		noNull(t, line)
		i++
	}
	if i != len(records) {
		t.Errorf("%d lines for %d records", i, len(records))
	}
}

// sameText compares texts in which each run of broken bytes counts as one.
func sameText(a, b string) bool {
	squeeze := func(s string) string {
		for strings.Contains(s, "\ufffd\ufffd") {
			s = strings.ReplaceAll(s, "\ufffd\ufffd", "\ufffd")
		}
		return s
	}
	return squeeze(a) == squeeze(b)
}

// noNull fails the test when a list that the contract promises is missing or null.
func noNull(t *testing.T, line string) {
	t.Helper()
	var host map[string]any
	if err := json.Unmarshal([]byte(line), &host); err != nil {
		t.Fatal(err)
	}
	list := func(object any, names ...string) {
		for _, name := range names {
			if _, ok := object.(map[string]any)[name].([]any); !ok {
				t.Errorf("%s is no list in %s", name, line)
			}
		}
	}
	list(host, "models", "running", "findings")
	list(host["identity"], "signals")
	list(host["owner"], "claims")
	for _, f := range host["findings"].([]any) {
		list(f, "cves", "evidence")
	}
	if _, ok := host["tls"]; !ok {
		t.Errorf("no tls in %s", line)
	}
}

// writes counts the calls of Write.
type writes struct {
	w io.Writer
	n int
}

func (w *writes) Write(p []byte) (int, error) {
	w.n++
	return w.w.Write(p)
}

func TestLinesKeepNumbersAndTimesSane(t *testing.T) {
	r := big()
	r.ObservedAt = time.Date(2026, 11, 24, 14, 0, 0, 0, time.FixedZone("", 7200))
	r.Identity.Confidence = 0.1 + 0.2
	r.Findings[0].Score = math.NaN()
	early := time.Date(0, 1, 1, 0, 0, 0, 0, time.FixedZone("", 86340)) // the year -1 in UTC
	r.Models[0].ModifiedAt = &early
	var b strings.Builder
	if err := report.NewLines(&b).Write(r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"observed_at":"2026-11-24T12:00:00Z"`, `"confidence":0.3,`, `"score":null`, `"modified_at":null`,
		`"size_bytes":42520413916`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in %s", want, b.String())
		}
	}
}

func TestLinesFromManyGoroutines(t *testing.T) {
	var b bytes.Buffer
	lines := report.NewLines(&b)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 20 {
				if err := lines.Write(hostile()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	n := 0
	for line := range bytes.Lines(b.Bytes()) {
		if n++; !json.Valid(line) {
			t.Fatalf("half a line: %q", line)
		}
	}
	if n != 160 {
		t.Errorf("%d lines, want 160", n)
	}
}

func TestLinesReportAWriterThatFails(t *testing.T) {
	full := errors.New("disk is full")
	if err := report.NewLines(failWriter{full}).Write(big()); !errors.Is(err, full) {
		t.Errorf("err %v", err)
	}
}

type failWriter struct{ err error }

func (w failWriter) Write([]byte) (int, error) { return 0, w.err }

func TestJSON(t *testing.T) {
	for _, records := range [][]wave.Record{nil, {big()}, append(street(), hostile())} {
		var b strings.Builder
		if err := report.JSON(&b, account(records), report.Records(records)); err != nil {
			t.Fatal(err)
		}
		safeToShow(t, b.String())
		var got struct {
			Summary wave.Summary
			Hosts   []wave.Record
		}
		d := json.NewDecoder(strings.NewReader(b.String()))
		d.DisallowUnknownFields()
		if err := d.Decode(&got); err != nil {
			t.Fatalf("%v in %s", err, b.String())
		}
		if got.Hosts == nil || len(got.Hosts) != len(records) {
			t.Errorf("%d hosts, want %d", len(got.Hosts), len(records))
		}
		if !reflect.DeepEqual(got.Summary, account(records)) {
			t.Errorf("summary %+v\nwant %+v", got.Summary, account(records))
		}
	}
}

func TestFormatsStopAtAnError(t *testing.T) {
	lost := errors.New("disk is gone")
	for name, write := range map[string]func(w io.Writer, h report.Hosts) error{
		"json":  func(w io.Writer, h report.Hosts) error { return report.JSON(w, wave.Summary{}, h) },
		"csv":   report.CSV,
		"sarif": func(w io.Writer, h report.Hosts) error { return report.SARIF(w, "", wave.Summary{}, h) },
	} {
		if err := write(io.Discard, failing(lost)); !errors.Is(err, lost) {
			t.Errorf("%s: reading: err %v", name, err)
		}
		many := func(yield func(wave.Record, error) bool) {
			for range 10_000 {
				if !yield(big(), nil) {
					return
				}
			}
			t.Errorf("%s goes on after the writer failed", name)
		}
		if err := write(failWriter{lost}, many); !errors.Is(err, lost) {
			t.Errorf("%s: writing: err %v", name, err)
		}
	}
}

func csvRows(t *testing.T, records []wave.Record) []map[string]string {
	t.Helper()
	var b strings.Builder
	if err := report.CSV(&b, report.Records(records)); err != nil {
		t.Fatal(err)
	}
	safeToShow(t, b.String())
	if n := strings.Count(b.String(), "\n"); n != len(records)+1 {
		t.Errorf("%d lines for %d rows and a header", n, len(records))
	}
	rows, err := csv.NewReader(strings.NewReader(b.String())).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]string
	for _, row := range rows[1:] {
		m := map[string]string{}
		for i, name := range rows[0] {
			m[name] = row[i]
		}
		out = append(out, m)
	}
	return out
}

// The header is what other programs rely on: this test changes only by a new
// name at its end.
func TestCSVHeader(t *testing.T) {
	const want = "wave,target,address,port,name,path,tls,observed_at,outcome,reason,product,version,confidence," +
		"hello,read,infer,manage,account,models,largest_model,largest_bytes,running,vram_bytes,hardware," +
		"min_memory_bytes,severity,score,critical,high,medium,low,findings,cves,country,asn,network,provider,owner,contact,notes,from\n"
	var b strings.Builder
	if err := report.CSV(&b, report.Records(nil)); err != nil {
		t.Fatal(err)
	}
	if b.String() != want {
		t.Errorf("got %s want %s", b.String(), want)
	}
}

func TestCSVCanBeReadBack(t *testing.T) {
	row := csvRows(t, []wave.Record{big()})[0]
	for name, want := range map[string]string{
		"address": "127.0.0.7", "port": "11434", "tls": "", "observed_at": "2026-11-24T12:00:00Z", "outcome": "open",
		"version": "0.1.28", "confidence": "0.98", "manage": "proven", "account": "unknown",
		"models": "3", "largest_model": "llama3.3:70b", "largest_bytes": "42520413916",
		"running": "1", "vram_bytes": "47000000000", "hardware": "data-centre 80 GB", "min_memory_bytes": "47000000000",
		"severity": "critical", "score": "10", "critical": "2", "high": "1", "medium": "1", "low": "0",
		"findings": "ollama-cleartext ollama-open ollama-outdated ollama-manage-open",
		"cves":     "CVE-2024-28224 CVE-2024-37032 CVE-2024-39720 CVE-2024-45436 CVE-2025-44779",
	} {
		if row[name] != want {
			t.Errorf("%s is %q, want %q", name, row[name], want)
		}
	}
	quoted := big()
	quoted.Reason = "a \"b\", c; d"
	if got := csvRows(t, []wave.Record{quoted})[0]["reason"]; got != quoted.Reason {
		t.Errorf("reason %q, want %q", got, quoted.Reason)
	}
	boundless := big()
	boundless.Running = []finding.Running{{VRAMBytes: math.MaxInt64}, {VRAMBytes: math.MaxInt64}, {VRAMBytes: -7}}
	if got := csvRows(t, []wave.Record{boundless})[0]["vram_bytes"]; got != fmt.Sprint(int64(math.MaxInt64)) {
		t.Errorf("vram_bytes %s", got)
	}
}

func TestCSVHasNoFormula(t *testing.T) {
	for _, text := range []string{
		"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\u00a0=1", "\"=1", "'=1", "x;=1", "x; =1", "x;\"=1", "＝1",
		"\n=1", "\u200b=1", ";=1", "a;b;+c",
	} {
		r := big()
		r.Models = []finding.Model{{Name: text}}
		formula(t, csvRows(t, []wave.Record{r})[0]["largest_model"])
	}
	for _, value := range csvRows(t, []wave.Record{hostile()})[0] {
		formula(t, value)
	}
	r := big()
	r.Models = []finding.Model{{Name: "hf.co/a-b=c@d+e:q4"}}
	if got := csvRows(t, []wave.Record{r})[0]["largest_model"]; got != "hf.co/a-b=c@d+e:q4" {
		t.Errorf("a harmless name became %q", got)
	}
}

// formula fails the test when a spreadsheet could take a cell, or a part of it
// after a semicolon, for a formula.
func formula(t *testing.T, value string) {
	t.Helper()
	for part := range strings.SplitSeq(value, ";") {
		bare := strings.TrimLeft(part, " \t\r\n\"\u00a0")
		if bare != "" && strings.ContainsRune("=+-@＝＋－＠", []rune(bare)[0]) {
			t.Errorf("%q may be taken for a formula", value)
		}
	}
}

func FuzzCSVCell(f *testing.F) {
	for _, s := range []string{"", "=1", " +1", "x;-1", "\"=1", rude, "''@", "\xff;=\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := place("127.0.0.1", 11434, finding.Open)
		r.Models = []finding.Model{{Name: s}}
		r.Reason = s
		var b strings.Builder
		if err := report.CSV(&b, report.Records([]wave.Record{r})); err != nil {
			t.Fatal(err)
		}
		safeToShow(t, b.String())
		rows, err := csv.NewReader(strings.NewReader(b.String())).ReadAll()
		if err != nil || len(rows) != 2 {
			t.Fatalf("%d rows, %v: %q", len(rows), err, b.String())
		}
		for _, value := range rows[1] {
			formula(t, value)
		}
		// As a spreadsheet reads it where the comma is the decimal sign.
		split := csv.NewReader(strings.NewReader(b.String()))
		split.Comma, split.LazyQuotes, split.FieldsPerRecord = ';', true, -1
		for {
			row, err := split.Read()
			if err != nil {
				break
			}
			for _, value := range row {
				formula(t, value)
			}
		}
	})
}

func TestSARIF(t *testing.T) {
	check := schema(t)
	records := append(street(), hostile())
	first := sarif(t, check, records, account(records))
	run := first.Runs[0]
	want := 0
	for _, r := range records {
		want += len(r.Findings)
	}
	if len(run.Results) != want {
		t.Errorf("%d results, want %d", len(run.Results), want)
	}
	if d := run.Tool.Driver; d.Name != "Gatehouse" || d.Version != "1.2.3" || len(d.Rules) != 4 {
		t.Errorf("driver %+v", d)
	}
	levels := map[string]string{
		"ollama-open": "error", "ollama-manage-open": "error", "ollama-outdated": "error", "ollama-cleartext": "warning",
	}
	prints := map[string]bool{}
	for _, r := range run.Results {
		rule := run.Tool.Driver.Rules[r.RuleIndex]
		if rule.ID != r.RuleID || r.Level != levels[r.RuleID] {
			t.Errorf("%s: rule %s, level %s", r.RuleID, rule.ID, r.Level)
		}
		at := r.Locations[0].PhysicalLocation.ArtifactLocation.URI
		if u, err := url.Parse(at); err != nil || u.Port() != "11434" {
			t.Errorf("location %q: %v", at, err)
		}
		prints[r.PartialFingerprints["gatehouse/v1"]] = true
	}
	if len(prints) != want {
		t.Errorf("%d fingerprints for %d results", len(prints), want)
	}
	for _, rule := range run.Tool.Driver.Rules {
		if rule.Properties.SecuritySeverity == "" || rule.Help.Text == "" || rule.ShortDescription.Text == "" {
			t.Errorf("rule %+v", rule)
		}
		if rule.ID == "ollama-open" && rule.Properties.SecuritySeverity != "10.0" {
			t.Errorf("ollama-open has %s", rule.Properties.SecuritySeverity)
		}
	}
	if !run.Invocations[0].ExecutionSuccessful {
		t.Error("a wave that ended is no success")
	}

	// A later wave knows the same door by its fingerprint, whatever else changed.
	later := big()
	later.Wave, later.Identity.Version, later.ObservedAt = "w2", "0.18.0", noon.AddDate(0, 0, 7)
	for _, r := range sarif(t, check, []wave.Record{later}, wave.Summary{Stopped: "interrupted"}).Runs[0].Results {
		if !prints[r.PartialFingerprints["gatehouse/v1"]] {
			t.Errorf("%s has another fingerprint", r.RuleID)
		}
	}
	if sarif(t, check, nil, wave.Summary{Stopped: "interrupted"}).Runs[0].Invocations[0].ExecutionSuccessful {
		t.Error("a wave that was stopped is a success")
	}
}
