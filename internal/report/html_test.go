package report_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

func claim(what, value string) owner.Claim {
	return owner.Claim{What: what, Value: value, Source: "a test", Confidence: 0.5}
}

func signal(saw string) finding.Signal {
	return finding.Signal{Name: "server header", For: "ollama", Weight: 0.2, Saw: saw}
}

func page(t *testing.T, d report.Data) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.HTML(&b, d); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var packedHosts = regexp.MustCompile(`<script type="application/gzip" data-hosts>([A-Za-z0-9+/=]*)</script>`)

// chunk is what the script of a page reads.
type chunk struct {
	T []string
	H [][]any
}

func chunks(t *testing.T, page string) (all []chunk) {
	t.Helper()
	for _, m := range packedHosts.FindAllStringSubmatch(page, -1) {
		z, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(m[1])))
		if err != nil {
			t.Fatal(err)
		}
		var c chunk
		if err := json.NewDecoder(z).Decode(&c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// unpacked is every text that a page has packed.
func unpacked(t *testing.T, page string) string {
	var b strings.Builder
	for _, c := range chunks(t, page) {
		b.WriteString(strings.Join(c.T, "\n"))
	}
	return b.String()
}

// seen is the text of a page as a reader has it, without its style and scripts.
func seen(page string) string {
	page = regexp.MustCompile(`(?s)<(style|script)\b.*?</(style|script)>`).ReplaceAllString(page, "")
	page = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, " ")
	return strings.Join(strings.Fields(html.UnescapeString(page)), " ")
}

// TestPageFigures holds the page against the census that it is of: what was
// published of April 2026 is what it says.
func TestPageFigures(t *testing.T) {
	d := whole(34150)
	t.Logf("%d open, %d in the EU", d.Tally.Open, d.Tally.EU)
	few, _ := census(40)
	d.Hosts = report.Records(few)
	text := seen(page(t, d))
	number := func(n uint64) string {
		s := fmt.Sprint(n)
		return s[:len(s)-3] + "," + s[len(s)-3:]
	}
	for _, want := range []string{
		"Open Ollama servers, April 2026",
		number(d.Tally.Open) + " Ollama servers answer strangers, " + number(d.Tally.EU) + " of them in the European Union (30 %)",
		"In the EU 30 % " + number(d.Tally.EU),
		"New 9,120", "Fixed 1,480", "At work 10 %",
		"3 Germany " + number(d.Tally.Countries["DE"]) + " 14 %", "1 China", "2 United States",
		"DE " + number(d.Tally.Countries["DE"]), "GB " + fmt.Sprint(d.Tally.Countries["GB"]),
		"×22 since the first wave shown", "2025-09-10 1,139",
		"not seen: no answer yet, too early to say 870",
		"1 llama3.2:3b", "consumer ≤8 GB",
		"Every address that an index of port 11434 named",
		"Country by registry , of 2026-04-01. Public domain (CC0). Its makers warn",
		"By its makers, CC BY 4.0.",
		"open: an Ollama that answers strangers " + number(d.Summary.Outcomes[finding.Open]),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// TestPageStandsAlone: nothing is loaded, and no script may run but the one whose
// hash the page names.
func TestPageStandsAlone(t *testing.T) {
	text := page(t, whole(1500))
	policy := regexp.MustCompile(`http-equiv="Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(text)
	if policy == nil {
		t.Fatal("the page has no policy")
	}
	scripts := regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindAllStringSubmatch(text, -1)
	if len(scripts) != 1 {
		t.Fatalf("%d scripts", len(scripts))
	}
	sum := sha256.Sum256([]byte(scripts[0][1]))
	want := "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'"
	if got := html.UnescapeString(policy[1]); got != want {
		t.Errorf("policy %q, want %q", got, want)
	}
	for _, loads := range []string{" src=", " srcset=", "url(", "@import", "<link", "<iframe", "<object", "<img", "fetch(", "XMLHttpRequest", "innerHTML", "eval("} {
		if strings.Contains(text, loads) {
			t.Errorf("the page has %q", loads)
		}
	}
	for _, link := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(text, -1) {
		if !strings.HasPrefix(link[1], "#") || !strings.Contains(text, `id="`+link[1][1:]+`"`) {
			t.Errorf("a link to %q", link[1])
		}
	}
	// Who cannot see a chart has its title, and its numbers in a table.
	for _, chart := range regexp.MustCompile(`(?s)<svg[^>]*>`).FindAllString(text, -1) {
		if !strings.Contains(chart, `role="img"`) && !strings.Contains(chart, "aria-hidden") && !strings.Contains(chart, `viewBox="0 0 100 8"`) {
			t.Errorf("%s has no role", chart)
		}
	}
	if titled := regexp.MustCompile(`role="img"><title>[^<]{20,}</title>`).FindAllString(text, -1); len(titled) != strings.Count(text, `role="img"`) || len(titled) < 3 {
		t.Errorf("%d of %d charts have a text", len(titled), strings.Count(text, `role="img"`))
	}
}

// TestPageOfHostileHosts: whatever hosts say, it is text, of a length that leaves
// the page a page, and can be seen.
func TestPageOfHostileHosts(t *testing.T) {
	var records []wave.Record
	for i := range 1200 {
		r := hostile()
		r.Address = fmt.Sprintf("10.1.%d.%d", i/250, i%250)
		records = append(records, r)
	}
	long := big()
	for range 300 {
		f := openFinding
		f.Evidence = []string{strings.Repeat("</script></template>", 100_000)}
		long.Findings = append(long.Findings, f)
	}
	records = append(records, long)
	d := report.Data{
		Title: rude, Summary: wave.Summary{Scope: rude, Wave: rude, Stopped: rude}, Hosts: report.Records(records),
		Method: []string{rude}, Sources: []report.Source{{Name: rude, Attribution: rude, Warning: rude}}, Active: &report.Share{Part: 1, Whole: 2, Method: rude},
		Version: rude,
	}
	for i := range records {
		d.Tally.Add(&records[i])
	}
	text := page(t, d)
	for name, s := range map[string]string{"page": text, "packed": unpacked(t, text)} {
		if len(s) == 0 {
			t.Errorf("the %s is empty", name)
		}
		safeToShow(t, s)
	}
	if n := strings.Count(strings.ToLower(text), "<script"); n != 2+strings.Count(text, "data-hosts>")-1 {
		t.Errorf("%d scripts", n)
	}
	if len(text) > 12<<20 {
		t.Errorf("%d bytes", len(text))
	}
	if !strings.Contains(seen(text), `"<script>,[a](https://evil.example)`) {
		t.Error("what a host said does not show")
	}
}

// TestPageHasAllHosts: the first thousand as rows and the others packed, each
// once, the most severe first.
func TestPageHasAllHosts(t *testing.T) {
	d := whole(3400)
	want := map[string]int{}
	for r := range d.Hosts {
		if len(r.Findings) > 0 || r.Outcome != finding.Other {
			want[r.Address]++
		}
	}
	text := page(t, d)
	rows := regexp.MustCompile(`<td class="sev ([a-z]*)">[a-z]*</td><th scope="row"><code>\[?([^<]*?)\]?:11434</code>`).FindAllStringSubmatch(text, -1)
	if len(rows) != 1000 {
		t.Errorf("%d rows", len(rows))
	}
	rank := map[string]int{"critical": 4, "high": 3, "medium": 2, "low": 1, "none": 0}
	last := 4
	next := func(severity, host string) {
		want[host]--
		if rank[severity] > last {
			t.Fatalf("%s comes after what is less severe than %s", host, severity)
		}
		last = rank[severity]
	}
	for _, row := range rows {
		next(row[1], row[2])
	}
	for _, c := range chunks(t, text) {
		for _, h := range c.H {
			host := c.T[int(h[1].(float64))]
			next(c.T[int(h[0].(float64))], strings.Trim(strings.TrimSuffix(host, ":11434"), "[]"))
			if len(h) != 14 {
				t.Fatalf("a host of %d parts", len(h))
			}
		}
	}
	for host, n := range want {
		if n != 0 {
			t.Errorf("%s is in the page %d times too few", host, n)
		}
	}
	if !strings.Contains(seen(text), "critical 10.0 · ollama-open GET / -> 200 Ollama is running") {
		t.Error("the evidence is not in the page")
	}
}

// TestPageOfLittle: a report with nothing but hosts has no part that is empty.
func TestPageOfLittle(t *testing.T) {
	text := page(t, report.Data{Summary: account(nil)})
	for _, no := range []string{`id="where"`, `id="change"`, `id="carry"`, `id="run"`, `id="advice"`, `id="hosts"`, "<script", "NaN", "%!"} {
		if strings.Contains(text, no) {
			t.Errorf("the empty page has %s", no)
		}
	}
	if !strings.Contains(seen(text), "No server that was looked at answers strangers.") {
		t.Error("the empty page does not say so")
	}
	one := report.Data{Summary: account([]wave.Record{big()}), Hosts: report.Records([]wave.Record{big()})}
	r := big()
	one.Tally.Add(&r)
	if text := seen(page(t, one)); !strings.Contains(text, "1 Ollama server answers strangers. Whoever reaches it") || !strings.Contains(text, "127.0.0.7:11434") {
		t.Errorf("the page of one host says %s", text)
	}
}

// TestTrend: points at one time make no line, and one that falls to nothing does.
func TestTrend(t *testing.T) {
	at := func(day int, open uint64) report.Point {
		return report.Point{Date: noon.AddDate(0, 0, day), Tally: wave.Tally{Open: open}}
	}
	for _, c := range []struct {
		points []report.Point
		says   string
	}{
		{nil, ""},
		{[]report.Point{at(0, 5)}, ""},
		{[]report.Point{at(0, 5), at(0, 6)}, ""},
		{[]report.Point{at(7, 3), at(0, 12)}, "12 on 2026-11-24, 3 on 2026-12-01"},
		{[]report.Point{at(0, 0), at(7, 0)}, "0 on 2026-11-24, 0 on 2026-12-01"},
		{[]report.Point{at(0, 1<<63), at(7, 1)}, "9,223,372,036,854,775,808 on"},
	} {
		text := page(t, report.Data{Trend: c.points})
		if has := strings.Contains(text, `class="trend"`); has != (c.says != "") || !strings.Contains(text, c.says) {
			t.Errorf("%v: a line %v, want %q", c.points, has, c.says)
		}
		if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
			t.Errorf("%v: no number", c.points)
		}
	}
}

// TestPageLeavesNothingBehind: not in the temporary folder, and not in the output
// when the hosts cannot be read to their end.
func TestPageLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	lost := errors.New("disk is gone")
	for name, write := range map[string]func(io.Writer, report.Data) error{"html": report.HTML, "markdown": report.Markdown} {
		var b bytes.Buffer
		if err := write(&b, report.Data{Hosts: failing(lost)}); !errors.Is(err, lost) || b.Len() > 0 {
			t.Errorf("%s: %d bytes, err %v", name, b.Len(), err)
		}
		if err := write(failWriter{lost}, whole(2500)); !errors.Is(err, lost) {
			t.Errorf("%s: a writer that fails: err %v", name, err)
		}
		if err := write(&b, whole(50)); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v %v", left, err)
	}
	t.Setenv("TMPDIR", dir+"/none")
	if err := report.HTML(io.Discard, whole(5)); err == nil || !strings.Contains(err.Error(), "temporary file") {
		t.Errorf("without a temporary folder: err %v", err)
	}
}
