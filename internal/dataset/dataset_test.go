package dataset_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/dataset"
	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
)

var update = flag.Bool("update", false, "rewrite the expected rows")

// exports are the test files and the format that each is in.
var exports = map[string]dataset.Format{
	"shodan.json": dataset.Shodan, "shodan.json.gz": dataset.Shodan, "shodan-api.json": dataset.Shodan,
	"censys.jsonl": dataset.Censys, "censys-array.json": dataset.Censys, "censys-api.json": dataset.Censys,
	"masscan.json": dataset.MasscanJSON, "masscan-unfinished.json": dataset.MasscanJSON, "masscan.ndjson": dataset.MasscanJSON,
	"masscan.xml": dataset.MasscanXML, "masscan.list": dataset.MasscanList,
	"nmap.xml": dataset.Nmap,
	"zmap.csv": dataset.ZmapCSV, "zmap.txt": dataset.ZmapCSV, "zmap.json": dataset.ZmapJSON,
	"shadowserver.csv": dataset.Shadowserver, "gatehouse.jsonl": dataset.Gatehouse,
}

var rules = finding.Rules{Advisories: ollama.Default()}

func verdict(row *dataset.Row) finding.Verdict {
	if row.Verdict != nil {
		return *row.Verdict
	}
	return rules.Judge(&row.Host)
}

// rows reads an export whole.
func rows(r io.Reader, o dataset.Options) (list []dataset.Row, bad []string, err error) {
	o.Bad = func(line int, err error) { bad = append(bad, fmt.Sprintf("%d: %v", line, err)) }
	for row, err := range dataset.Read(context.Background(), r, "test", o) {
		if err != nil {
			return list, bad, err
		}
		list = append(list, row)
	}
	return list, bad, nil
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestGolden holds the rows of each export, and what the rules make of them, to
// what was agreed on. The format is found out, and the bytes come one by one.
func TestGolden(t *testing.T) {
	for name := range exports {
		t.Run(name, func(t *testing.T) {
			list, bad, err := rows(iotest.OneByteReader(bytes.NewReader(readFile(t, name))), dataset.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			for i := range list {
				r := &list[i]
				v := verdict(r)
				fmt.Fprintf(&out, "line %d: %s %s %s (%s)", r.Line, r.Host.Target, r.Host.ObservedAt.Format(time.RFC3339), v.Outcome, v.Reason)
				fmt.Fprintf(&out, " %s %s, %d models, %d running\n", v.Identity.Product, v.Identity.Version, len(v.Models), len(v.Running))
				for _, f := range v.Findings {
					fmt.Fprintf(&out, "  finding %s\n", f.ID)
				}
				for _, c := range r.Claims {
					fmt.Fprintf(&out, "  claim %s %q by %s\n", c.What, c.Value, c.Source)
				}
				if r.Host.TLS != nil {
					fmt.Fprintf(&out, "  tls %+v\n", *r.Host.TLS)
				}
				for _, x := range r.Host.Exchanges {
					fmt.Fprintf(&out, "  %s %s -> %d %q %q by %s\n", x.Method, x.Path, x.Status, x.Header, x.Body, x.Retold)
				}
			}
			for _, b := range bad {
				fmt.Fprintf(&out, "bad %s\n", b)
			}
			golden := filepath.Join("testdata", name+".want")
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", &out, want)
			}
		})
	}
}

// TestFormat reads each export as the format it is in, and as it is found out:
// the same rows.
func TestFormat(t *testing.T) {
	named := make(map[dataset.Format]bool)
	for name, format := range exports {
		named[format] = true
		text := readFile(t, name)
		found, _, err := rows(bytes.NewReader(text), dataset.Options{})
		if err != nil {
			t.Fatal(err)
		}
		told, _, err := rows(bytes.NewReader(text), dataset.Options{Format: format})
		if err != nil || !reflect.DeepEqual(found, told) || len(told) == 0 {
			t.Errorf("%s: %d rows when it is found out, %d as %s: %v", name, len(found), len(told), format, err)
		}
	}
	for _, f := range dataset.Formats {
		if !named[f] {
			t.Errorf("no test file is in %s", f)
		}
	}
	for _, text := range []string{"hello\n", "%PDF-1.7\n", `{"a":1}` + "\n", "<html></html>", "a,b\n1,2\n"} {
		if list, _, err := rows(strings.NewReader(text), dataset.Options{}); !errors.Is(err, dataset.ErrFormat) {
			t.Errorf("%q: %d rows, %v", text, len(list), err)
		}
	}
	if list, _, err := rows(strings.NewReader("\n"), dataset.Options{}); err != nil || len(list) > 0 {
		t.Errorf("an empty export: %d rows, %v", len(list), err)
	}
	if _, _, err := rows(strings.NewReader("x"), dataset.Options{Format: "excel"}); !errors.Is(err, dataset.ErrFormat) {
		t.Error(err)
	}
}

// TestCut cuts each export at each of its bytes: the rows that are whole
// remain, and none is made up from half a line.
func TestCut(t *testing.T) {
	for name, format := range exports {
		text := readFile(t, name)
		whole, _, err := rows(bytes.NewReader(text), dataset.Options{Format: format})
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		for cut := range len(text) {
			// The header of a CSV may be cut as well, and gzip in the middle.
			list, _, _ := rows(bytes.NewReader(text[:cut]), dataset.Options{Format: format})
			if len(list) > len(whole) || !reflect.DeepEqual(list, whole[:len(list)]) && len(list) > 0 {
				t.Fatalf("%s cut at %d of %d: other rows", name, cut, len(text))
			}
			if len(list) < most && !strings.HasSuffix(name, "-api.json") {
				t.Fatalf("%s cut at %d of %d: %d rows, and %d before", name, cut, len(text), len(list), most)
			}
			most = max(most, len(list))
			if cut%4 > 0 {
				continue
			}
			// Nor is anything made up where the format is not told.
			list, _, _ = rows(bytes.NewReader(text[:cut]), dataset.Options{})
			for i := range list {
				if !slices.ContainsFunc(whole, func(w dataset.Row) bool { return w.Host.Target == list[i].Host.Target }) {
					t.Fatalf("%s cut at %d: made up %s", name, cut, list[i].Host.Target)
				}
			}
		}
	}
}

// TestUnasked: nothing that only has its port open is an Ollama.
func TestUnasked(t *testing.T) {
	seen := 0
	for name := range exports {
		list, _, err := rows(bytes.NewReader(readFile(t, name)), dataset.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			if h := &list[i].Host; h.Reach == evidence.Unasked {
				seen++
				if v := verdict(&list[i]); v.Outcome != finding.Other || len(v.Findings) > 0 || v.Reason == "" || v.Identity.Product != "" {
					t.Errorf("%s line %d: %+v", name, list[i].Line, v)
				}
			}
			for _, x := range list[i].Host.Exchanges {
				if x.Retold == "" {
					t.Errorf("%s line %d: %s %s passes for heard", name, list[i].Line, x.Method, x.Path)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d such rows", seen)
	}
}

// TestRejudged: a record of our own keeps its verdict, whatever it rests on.
func TestRejudged(t *testing.T) {
	text := readFile(t, "gatehouse.jsonl")
	first, _, _ := bytes.Cut(text, []byte("\n"))
	var want finding.Verdict
	if err := json.Unmarshal(first, &want); err != nil {
		t.Fatal(err)
	}
	list, bad, err := rows(bytes.NewReader(text), dataset.Options{})
	if err != nil || len(list) != 3 || len(bad) != 2 {
		t.Fatalf("%d rows, bad %q, %v", len(list), bad, err)
	}
	if got := verdict(&list[0]); !reflect.DeepEqual(got, want) || got.Powers.Infer != finding.Proven {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestOptions(t *testing.T) {
	date := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	list, _, err := rows(strings.NewReader("192.0.2.1\n"), dataset.Options{Port: 8080, Date: date})
	if err != nil || len(list) != 1 || list[0].Host.Target != "192.0.2.1:8080" || !list[0].Host.ObservedAt.Equal(date) {
		t.Errorf("%+v %v", list, err)
	}
	// Who wants no more gets no more.
	for row, err := range dataset.Read(t.Context(), bytes.NewReader(readFile(t, "censys.jsonl")), "x", dataset.Options{}) {
		if err != nil || row.Line != 1 {
			t.Errorf("%+v %v", row, err)
		}
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for row, err := range dataset.Read(ctx, bytes.NewReader(readFile(t, "zmap.csv")), "x", dataset.Options{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%+v %v", row, err)
		}
	}
	broken := errors.New("cable cut")
	text := readFile(t, "zmap.csv")
	list, _, err = rows(io.MultiReader(bytes.NewReader(text[:len(text)-1]), iotest.ErrReader(broken)), dataset.Options{})
	if !errors.Is(err, broken) || len(list) == 0 {
		t.Errorf("%d rows, %v", len(list), err)
	}
}

// TestLimits: a record that is too long or too deep is bad, and the ones around
// it are not.
func TestLimits(t *testing.T) {
	long := strings.Repeat("9", 3000)
	for format, c := range map[dataset.Format]struct{ good, bad string }{
		dataset.ZmapCSV:     {"192.0.2.%d", "192.0.2.99,%s"},
		dataset.ZmapJSON:    {`{"saddr":"192.0.2.%d"}`, `{"saddr":"192.0.2.99","x":"%s"}`},
		dataset.MasscanList: {"open tcp 11434 192.0.2.%d 1795500000", "banner tcp 11434 192.0.2.99 1795500000 http %s"},
		dataset.Nmap: {
			`<host><address addr="192.0.2.%d"/><ports><port protocol="tcp" portid="1"/></ports></host>`,
			`<host><address addr="192.0.2.99" x="%s"/><ports><port protocol="tcp" portid="1"/></ports></host>`,
		},
	} {
		text := fmt.Sprintf(c.good, 1) + "\n" + fmt.Sprintf(c.bad, long) + "\n" + fmt.Sprintf(c.good, 2) + "\n"
		list, bad, err := rows(strings.NewReader(text), dataset.Options{Format: format, MaxRecord: 1000})
		if err != nil || len(list) != 2 || len(bad) == 0 || !strings.HasPrefix(bad[0], "2: longer") {
			t.Errorf("%s: %d rows, bad %q, %v", format, len(list), bad, err)
		}
	}
	deep := `{"saddr":"192.0.2.1"}` + "\n" + `{"saddr":` + strings.Repeat("[", 100_000) + "\n" + `{"saddr":"192.0.2.2"}` + "\n"
	list, bad, err := rows(strings.NewReader(deep), dataset.Options{})
	if err != nil || len(list) != 2 || len(bad) != 1 {
		t.Errorf("%d rows, bad %q, %v", len(list), bad, err)
	}
}

// TestBomb unpacks 256 MiB that are one line, and needs no more memory than
// a record may take.
func TestBomb(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	fmt.Fprint(z, `{"saddr":"192.0.2.1"}`+"\n"+`{"saddr":"`)
	size := 256
	block := bytes.Repeat([]byte{'9'}, 1<<20)
	for range size {
		_, _ = z.Write(block)
	}
	fmt.Fprint(z, "\"}\n"+`{"saddr":"192.0.2.2"}`+"\n")
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	var list []dataset.Row
	var bad []string
	var err error
	used := allocated(func() {
		list, bad, err = rows(&packed, dataset.Options{MaxRecord: 1 << 20})
	})
	if err != nil || len(list) != 2 || len(bad) != 1 {
		t.Errorf("%d rows, bad %q, %v", len(list), bad, err)
	}
	if used > 16<<20 {
		t.Errorf("%d bytes allocated for a record of 1 MiB at most", used)
	}
}

// allocated is how many bytes f allocates in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// lots generates the CSV of a zmap with n answers.
type lots struct {
	n, next int
	buf     []byte
}

func (l *lots) Read(p []byte) (int, error) {
	for len(l.buf) < len(p) && l.next <= l.n {
		if l.next == 0 {
			l.buf = append(l.buf, "saddr,sport,classification,success,timestamp_ts\n"...)
		} else {
			l.buf = netip.AddrFrom4([4]byte{10, byte(l.next >> 16), byte(l.next >> 8), byte(l.next)}).AppendTo(l.buf)
			l.buf = append(l.buf, ",11434,synack,1,1795514400\n"...)
		}
		l.next++
	}
	if len(l.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, l.buf)
	l.buf = append(l.buf[:0], l.buf[n:]...)
	return n, nil
}

// TestMillion reads a million rows. What is held does not grow with them, and
// what each costs stays small.
func TestMillion(t *testing.T) {
	const n = 1_000_000
	var start, peak runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&start)
	count := 0
	total := allocated(func() {
		for row, err := range dataset.Read(t.Context(), &lots{n: n}, "zmap.csv", dataset.Options{}) {
			if err != nil || row.Host.Port != 11434 {
				t.Fatal(row, err)
			}
			if count++; count == n {
				runtime.GC()
				runtime.ReadMemStats(&peak)
			}
		}
	})
	if count != n {
		t.Errorf("%d rows", count)
	}
	if held := int64(peak.HeapAlloc) - int64(start.HeapAlloc); held > 4<<20 {
		t.Errorf("%d bytes held at the last row", held)
	}
	if each := total / n; each > 1024 {
		t.Errorf("%d bytes allocated a row", each)
	}
	t.Logf("%d bytes a row", total/n)
}

func BenchmarkZmapCSV(b *testing.B) {
	b.ReportAllocs()
	for _, err := range dataset.Read(b.Context(), &lots{n: b.N}, "zmap.csv", dataset.Options{}) {
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkShodan(b *testing.B) {
	line, _, _ := strings.Cut(string(readFile(b, "shodan.json")), "\n")
	b.ReportAllocs()
	b.SetBytes(int64(len(line)))
	text := strings.NewReader(strings.Repeat(line+"\n", b.N))
	b.ResetTimer()
	for row, err := range dataset.Read(b.Context(), text, "shodan.json", dataset.Options{}) {
		if err != nil {
			b.Fatal(err)
		}
		if v := rules.Judge(&row.Host); v.Outcome != finding.Open {
			b.Fatal(v.Reason)
		}
	}
}

// fuzz reads whatever comes as format, and as whatever it passes for. Each row
// names a place and can be judged and written down.
func fuzz(f *testing.F, format dataset.Format) {
	for name, of := range exports {
		if of == format && !strings.HasSuffix(name, ".gz") {
			f.Add(readFile(f, name))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, o := range []dataset.Options{{Format: format, MaxRecord: 1 << 16}, {MaxRecord: 1 << 16}} {
			lines := bytes.Count(text, []byte("\n")) + 1
			o.Bad = func(line int, err error) {
				if line < 1 || line > lines || err == nil {
					t.Errorf("bad line %d of %d: %v", line, lines, err)
				}
			}
			for row, err := range dataset.Read(t.Context(), bytes.NewReader(text), "fuzz", o) {
				if err != nil {
					if strings.Contains(err.Error(), "\n") {
						t.Errorf("not one line: %q", err)
					}
					return
				}
				if !row.Host.Address.IsValid() || row.Host.Port == 0 || row.Line < 1 || row.Line > lines || row.Host.Reach == "" {
					t.Errorf("%+v", row)
				}
				if v := verdict(&row); !slices.Contains(finding.Outcomes, v.Outcome) {
					t.Errorf("outcome %q", v.Outcome)
				}
				if _, err := json.Marshal(row.Host, jsontext.AllowInvalidUTF8(true)); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func FuzzShodan(f *testing.F)       { fuzz(f, dataset.Shodan) }
func FuzzCensys(f *testing.F)       { fuzz(f, dataset.Censys) }
func FuzzMasscanJSON(f *testing.F)  { fuzz(f, dataset.MasscanJSON) }
func FuzzMasscanXML(f *testing.F)   { fuzz(f, dataset.MasscanXML) }
func FuzzMasscanList(f *testing.F)  { fuzz(f, dataset.MasscanList) }
func FuzzNmap(f *testing.F)         { fuzz(f, dataset.Nmap) }
func FuzzZmapCSV(f *testing.F)      { fuzz(f, dataset.ZmapCSV) }
func FuzzZmapJSON(f *testing.F)     { fuzz(f, dataset.ZmapJSON) }
func FuzzShadowserver(f *testing.F) { fuzz(f, dataset.Shadowserver) }
func FuzzGatehouse(f *testing.F)    { fuzz(f, dataset.Gatehouse) }
