package ollama_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"gatehouse/internal/ollama"
)

func cves(list []ollama.Advisory) []string {
	ids := make([]string, 0, len(list))
	for _, a := range list {
		ids = append(ids, a.CVE())
	}
	slices.Sort(ids)
	return ids
}

// noFixOnRecord is what the Go vulnerability database had no fix for.
var noFixOnRecord = []string{
	"CVE-2024-12055", "CVE-2024-8063", "CVE-2025-0312", "CVE-2025-0315", "CVE-2025-0317",
	"CVE-2025-1975", "CVE-2025-51471", "CVE-2025-63389", "CVE-2026-7020",
}

func TestDefaultFor(t *testing.T) {
	const bleeding, gzip = "CVE-2026-7482", "CVE-2024-12886"
	early := []string{"CVE-2024-28224", "CVE-2024-37032", "CVE-2024-39720", "CVE-2024-45436", "CVE-2025-44779"}
	all := slices.Sorted(slices.Values(append([]string{bleeding, gzip}, early...)))
	for version, want := range map[string][]string{
		"0.1.28": all,
		"0.1.33": {"CVE-2024-12886", "CVE-2024-37032", "CVE-2024-39720", "CVE-2024-45436", "CVE-2025-44779", bleeding},
		"0.1.46": {gzip, "CVE-2024-45436", bleeding},
		"0.3.14": {gzip, bleeding},
		"0.4.0":  {bleeding},
		"0.17.0": {bleeding},
		"0.17.1": nil,
		"0.35.1": nil,
		"1.0.0":  nil,

		"0.17.0-rc1":             {bleeding},
		"0.17.1-rc0":             nil, // may have the fix
		"0.17.0-3-g1a2b3c4":      nil, // likewise
		"0.16.3-3-g1a2b3c4":      {bleeding},
		"0.16.3-1-g1a2b3c4":      {bleeding},
		"0.35.1-9-g1a2b3c4":      nil,
		"0.5.4-ipexllm-20250331": {bleeding},
		"0.0.0":                  nil,
		"":                       nil,
		"\x1b[31m0.1.0":          nil,
	} {
		fixed, noFix := ollama.Default().For(version)
		if got := cves(fixed); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("For(%q): fixed since: %v, want %v", version, got, want)
		}
		if got := cves(noFix); !slices.Equal(got, noFixOnRecord) {
			t.Errorf("For(%q): no fix on record: %v, want %v", version, got, noFixOnRecord)
		}
	}
}

// Every release is below a fix exactly when an older one's fixes include it:
// updating never adds a finding.
func TestFixesOnlyShrink(t *testing.T) {
	before := len(ollama.Default().Items)
	for _, s := range ollama.KnownReleases().Series {
		for patch := range s.Last + 1 {
			r := ollama.Release{Major: s.Major, Minor: s.Minor, Patch: patch}
			if r == (ollama.Release{}) {
				continue // a build from source: nothing is certain
			}
			fixed, _ := ollama.Default().For(r.String())
			if len(fixed) > before {
				t.Errorf("%s has %d, more than the release before it", r, len(fixed))
			}
			before = len(fixed)
		}
	}
	if before != 0 {
		t.Errorf("the newest release has %d", before)
	}
}

func TestDefaultMarks(t *testing.T) {
	var windows, open []string
	for _, a := range ollama.Default().Items {
		if a.Windows {
			windows = append(windows, a.CVE())
		}
		if a.OpenAPI {
			open = append(open, a.CVE())
		}
		if a.ID == "" || a.CVE() == "" || a.Summary == "" {
			t.Errorf("incomplete: %+v", a)
		}
	}
	if want := []string{"CVE-2026-42248", "CVE-2026-42249"}; !slices.Equal(windows, want) {
		t.Errorf("Windows alone: %v, want %v", windows, want)
	}
	if want := []string{"CVE-2025-63389"}; !slices.Equal(open, want) {
		t.Errorf("the open API itself: %v, want %v", open, want)
	}
	if n := len(ollama.Default().Items); n != 18 {
		t.Errorf("%d advisories, want 18", n)
	}
	if (&ollama.Advisories{}).Items != nil {
		t.Error("the zero table knows something")
	}
	if fixed, noFix := new(ollama.Advisories).For("0.1.0"); fixed != nil || noFix != nil {
		t.Errorf("the zero table says %v, %v", fixed, noFix)
	}
}

// osv writes a record for a Go module with the events of one range.
func osv(id, module, events, more string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(`{"schema_version": "1.3.1", "id": "` + id + `",
		"modified": "2026-11-02T10:00:00Z", "aliases": ["CVE-2099-` + id + `"], "summary": "about ` + id + `",
		"affected": [{"package": {"name": "` + module + `", "ecosystem": "Go"},
			"ranges": [{"type": "SEMVER", "events": [` + events + `]}]` + more + `}]}`)}
}

const module = "github.com/ollama/ollama"

func TestLoad(t *testing.T) {
	table, err := ollama.Load(fstest.MapFS{
		"ID/A.json": osv("A", module, `{"introduced": "0"}, {"fixed": "0.20.0"}`, ""),
		"ID/B.json": osv("B", module, `{"introduced": "0.10.0"}`, ""),
		"ID/C.json": osv("C", module, `{"introduced": "0.3.0"}, {"fixed": "0.4.0"}, {"introduced": "0.12.0"}, {"fixed": "0.12.5"}`, ""),
		"old.json":  osv("D", "github.com/jmorganca/ollama", `{"introduced": "0"}, {"fixed": "0.1.29"}`, ""),
		"W.json": osv("W", module, `{"introduced": "0"}`,
			`, "ecosystem_specific": {"imports": [{"path": "app/updater", "goos": ["windows"]}]}`),
		"other.json":     osv("E", "example.com/other", `{"introduced": "0"}`, ""),
		"withdrawn.json": {Data: []byte(`{"id": "F", "withdrawn": "2026-01-01T00:00:00Z", "affected": [{"package": {"name": "` + module + `"}}]}`)},
		"index/db.json":  {Data: []byte(`[]`)},
		"README.md":      {Data: []byte(`no record`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC); !table.Date.Equal(want) {
		t.Errorf("dated %v, want %v", table.Date, want)
	}
	fixedIn := map[string]string{}
	for _, a := range table.Items {
		fixedIn[a.ID] = a.Fixed
		if a.Windows != (a.ID == "W") {
			t.Errorf("%s: Windows alone is %v", a.ID, a.Windows)
		}
	}
	if want := map[string]string{"A": "0.20.0", "B": "", "C": "0.12.5", "D": "0.1.29", "W": ""}; !maps.Equal(fixedIn, want) {
		t.Errorf("read %v, want %v", fixedIn, want)
	}
	if fixed, _ := table.For("0.3.9"); len(fixed) != 2 || fixed[1].Fixed != "0.4.0" {
		t.Errorf("0.3.9: %+v, want C as fixed in 0.4.0", fixed)
	}
	for version, want := range map[string][2]string{
		"0.1.28": {"A D", ""},
		"0.3.9":  {"A C", ""},
		"0.4.0":  {"A", ""},
		"0.12.4": {"A C", "B"},
		"0.12.5": {"A", "B"},
		"0.20.0": {"", "B"},
		"0.0.0":  {"", "B"},
	} {
		fixed, noFix := table.For(version)
		if got := [2]string{ids(fixed), ids(noFix)}; got != want {
			t.Errorf("For(%q) = %q, want %q", version, got, want)
		}
	}
}

func ids(list []ollama.Advisory) string {
	out := make([]string, 0, len(list))
	for _, a := range list {
		out = append(out, a.ID)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestLoadOpenAPI(t *testing.T) {
	file := osv("GO-2025-4251", module, `{"introduced": "0"}`, "")
	file.Data = []byte(strings.Replace(string(file.Data), "CVE-2099-GO-2025-4251", "CVE-2025-63389", 1))
	table, err := ollama.Load(fstest.MapFS{"x.json": file})
	if err != nil {
		t.Fatal(err)
	}
	if _, noFix := table.For("0.17.4"); len(noFix) != 1 || !noFix[0].OpenAPI {
		t.Errorf("got %+v, want the open API itself", noFix)
	}
}

func TestLoadRefuses(t *testing.T) {
	good := osv("A", module, `{"introduced": "0"}`, "")
	for name, test := range map[string]struct {
		fsys fstest.MapFS
		want string
	}{
		"no JSON":        {fstest.MapFS{"good.json": good, "bad.json": {Data: []byte(`{`)}}, "bad.json"},
		"an array":       {fstest.MapFS{"good.json": good, "ID/list.json": {Data: []byte(`[]`)}}, "ID/list.json"},
		"no id":          {fstest.MapFS{"good.json": good, "empty.json": {Data: []byte(`{}`)}}, "empty.json"},
		"no version":     {fstest.MapFS{"x.json": osv("X", module, `{"introduced": "0"}, {"fixed": "soon"}`, "")}, "x.json: fixed"},
		"fixed twice":    {fstest.MapFS{"x.json": osv("X", module, `{"introduced": "0"}, {"fixed": "0.1.0"}, {"fixed": "0.2.0"}`, "")}, "x.json"},
		"never began":    {fstest.MapFS{"x.json": osv("X", module, `{"fixed": "0.1.0"}`, "")}, "x.json"},
		"twice a member": {fstest.MapFS{"x.json": {Data: []byte(`{"id": "A", "id": "B"}`)}}, "x.json"},
		"too large":      {fstest.MapFS{"big.json": {Data: make([]byte, 1<<20+1)}}, "big.json: more than"},
		"none of Ollama": {fstest.MapFS{"x.json": osv("X", "example.com/other", `{"introduced": "0"}`, "")}, "no advisory"},
		"nothing":        {fstest.MapFS{}, "no advisory"},
	} {
		table, err := ollama.Load(test.fsys)
		if err == nil || !strings.Contains(err.Error(), test.want) || table != nil {
			t.Errorf("%s: got %v, %v; want an error with %q", name, table, err, test.want)
		}
	}
	if _, err := ollama.Load(fstest.MapFS{}); !errors.Is(err, ollama.ErrNoAdvisories) {
		t.Errorf("an empty folder: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	for _, events := range []string{
		`{"introduced": "0"}, {"fixed": "0.17.1"}`, `{"introduced": "0.3.0"}`, `{"fixed": "1"}`,
		`{"introduced": "0"}, {"last_affected": "0.5.0"}`,
	} {
		f.Add(osv("A", module, events, "").Data, "0.5.1")
	}
	f.Fuzz(func(t *testing.T, record []byte, version string) {
		table, err := ollama.Load(fstest.MapFS{"r.json": {Data: record}})
		if err != nil {
			if table != nil {
				t.Error("a table with an error")
			}
			return
		}
		fixed, noFix := table.For(version)
		if len(fixed)+len(noFix) > len(table.Items) {
			t.Errorf("%d of %d advisories", len(fixed)+len(noFix), len(table.Items))
		}
		for _, a := range fixed {
			if a.Windows {
				t.Errorf("claims %+v", a)
			}
		}
	})
}
