package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

func stixOf(t *testing.T, d report.Data) (bundle struct {
	Type, ID string
	Objects  []map[string]any
}, text string,
) {
	t.Helper()
	var b bytes.Buffer
	if err := report.STIX(&b, d); err != nil {
		t.Fatal(err)
	}
	safeToShow(t, b.String())
	if err := json.Unmarshal(b.Bytes(), &bundle); err != nil {
		t.Fatalf("%v in %s", err, b.String())
	}
	return bundle, b.String()
}

// The rules of STIX 2.1 for the objects that we write, as its text has them: the
// properties that must be there, those that may, and what a reference may name.
var stixRules = map[string]struct{ must, may string }{
	"identity":          {"created modified name", "identity_class"},
	"ipv4-addr":         {"value", "belongs_to_refs"},
	"ipv6-addr":         {"value", "belongs_to_refs"},
	"autonomous-system": {"number", "name"},
	"network-traffic":   {"protocols dst_ref", "dst_port"},
	"software":          {"name", "version"},
	"observed-data":     {"created modified first_observed last_observed number_observed object_refs", "created_by_ref"},
	"infrastructure":    {"created modified name", "created_by_ref description infrastructure_types first_seen last_seen"},
	"vulnerability":     {"created modified name", "created_by_ref description external_references"},
	"relationship":      {"created modified relationship_type source_ref target_ref", "created_by_ref"},
}

var stixRefs = map[string]string{
	"created_by_ref":  "identity",
	"belongs_to_refs": "autonomous-system",
	"dst_ref":         "ipv4-addr ipv6-addr",
	"object_refs":     "ipv4-addr ipv6-addr network-traffic software",
	"source_ref":      "infrastructure",
	"target_ref":      "observed-data vulnerability",
}

var (
	stixUUID = regexp.MustCompile(`^([a-z0-9-]+)--[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	stixWhen = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$`)
)

// holdSTIX holds every object of a bundle to the rules.
func holdSTIX(t *testing.T, d report.Data) (kinds map[string]int) {
	t.Helper()
	bundle, _ := stixOf(t, d)
	if bundle.Type != "bundle" || !strings.HasPrefix(bundle.ID, "bundle--") || !stixUUID.MatchString(bundle.ID) {
		t.Errorf("a bundle of type %q, id %q", bundle.Type, bundle.ID)
	}
	kinds, ids, uuids := map[string]int{}, map[string]bool{}, map[string]bool{}
	for _, o := range bundle.Objects {
		id, _ := o["id"].(string)
		m := stixUUID.FindStringSubmatch(id)
		if m == nil || m[1] != o["type"] || ids[id] || uuids[id[len(m[1]):]] {
			t.Errorf("the id %q of a %v", id, o["type"])
			continue
		}
		ids[id], uuids[id[len(m[1]):]] = true, true
		kinds[m[1]]++
	}
	for _, o := range bundle.Objects {
		kind := o["type"].(string)
		rules, ok := stixRules[kind]
		if !ok || o["spec_version"] != "2.1" {
			t.Errorf("an object of type %s, version %v", kind, o["spec_version"])
		}
		must := strings.Fields(rules.must)
		for _, name := range must {
			if _, ok := o[name]; !ok {
				t.Errorf("%s without %s: %v", kind, name, o)
			}
		}
		for name, value := range o {
			if !slices.Contains(append(append(must, strings.Fields(rules.may)...), "type", "id", "spec_version"), name) {
				t.Errorf("%s has %s", kind, name)
			}
			if value == "" || value == nil { // 2.9, 3.1: what is empty is left out
				t.Errorf("%s has an empty %s", kind, name)
			}
			if strings.HasSuffix(name, "_seen") || strings.HasSuffix(name, "_observed") && name != "number_observed" || name == "created" || name == "modified" {
				if s, _ := value.(string); !stixWhen.MatchString(s) {
					t.Errorf("%s has %s %v", kind, name, value)
				} else if _, err := time.Parse(time.RFC3339, s); err != nil {
					t.Error(err)
				}
			}
			var refs []any
			if strings.HasSuffix(name, "_ref") {
				refs = []any{value}
			} else if strings.HasSuffix(name, "_refs") {
				if refs = value.([]any); len(refs) == 0 {
					t.Errorf("%s has an empty list %s", kind, name)
				}
			}
			for _, ref := range refs {
				to, _, _ := strings.Cut(ref.(string), "--")
				if !ids[ref.(string)] || !slices.Contains(strings.Fields(stixRefs[name]), to) {
					t.Errorf("%s has %s %v, which is not there or not fit", kind, name, ref)
				}
			}
		}
		switch kind {
		case "ipv4-addr", "ipv6-addr":
			value := o["value"].(string)
			addr, err := netip.ParseAddr(value)
			if err != nil {
				prefix, err2 := netip.ParsePrefix(value)
				addr, err = prefix.Addr(), err2
			}
			if err != nil || addr.Is4() != (kind == "ipv4-addr") || addr.Zone() != "" {
				t.Errorf("%s is %q", kind, value)
			}
		case "observed-data":
			if n := o["number_observed"].(float64); n < 1 || n > 999_999_999 || o["last_observed"].(string) < o["first_observed"].(string) {
				t.Errorf("observed %v", o)
			}
		case "relationship":
			if rel, to := o["relationship_type"], o["target_ref"].(string); rel == "has" != strings.HasPrefix(to, "vulnerability--") || rel != "has" && rel != "consists-of" {
				t.Errorf("an infrastructure %v %s", rel, to)
			}
		case "vulnerability":
			for _, e := range o["external_references"].([]any) {
				ref := e.(map[string]any)
				if isCVE := strings.HasPrefix(o["name"].(string), "CVE-"); isCVE != (ref["source_name"] == "cve") || isCVE && ref["external_id"] != o["name"] {
					t.Errorf("%v refers to %v", o["name"], ref)
				}
			}
		}
	}
	return kinds
}

func TestSTIX(t *testing.T) {
	d := whole(300)
	kinds := holdSTIX(t, d)
	for kind := range stixRules {
		if kinds[kind] == 0 {
			t.Errorf("no %s", kind)
		}
	}
	if kinds["observed-data"] != kinds["infrastructure"] || kinds["vulnerability"] != 4+5 {
		t.Errorf("objects %v", kinds)
	}
	_, first := stixOf(t, d)
	if _, again := stixOf(t, d); again != first {
		t.Error("the same report is two bundles")
	}
	holdSTIX(t, d.Anonymise([]byte("a key of the tests")))

	rudest := hostile()
	rudest.Address = "fe80::1%eth0"
	nowhere := hostile()
	nowhere.Address = rude
	timeless := big()
	timeless.ObservedAt = time.Time{}
	holdSTIX(t, report.Data{Summary: wave.Summary{Wave: rude}, Hosts: report.Records(append(street(), hostile(), rudest, nowhere, timeless, big(), big()))})
	if kinds := holdSTIX(t, report.Data{}); len(kinds) != 1 {
		t.Errorf("a report of nothing has %v", kinds)
	}
}

// TestSTIXObservables: others name an observable by the same id. The ids are
// those that the standard's own examples and other programs have.
func TestSTIXObservables(t *testing.T) {
	four, six := big(), big()
	four.Address, four.Owner.ASN = "198.51.100.3", 15139
	six.Address = "2001:db8::1"
	_, text := stixOf(t, report.Data{Hosts: report.Records([]wave.Record{four, six})})
	for _, id := range []string{
		"ipv4-addr--28bb3599-77cd-5a82-a950-b5bc3caf07c4",
		"ipv6-addr--6469e3a9-b053-5e34-a025-9396ae051d26",
		"autonomous-system--3aa27478-50b5-5ab8-9da9-cdc12b657fff",
	} {
		if !strings.Contains(text, id) {
			t.Errorf("%s is not there", id)
		}
	}
}

// TestDefectDojo holds the file to what the importer takes; it refuses a file
// with any other field.
func TestDefectDojo(t *testing.T) {
	allowed := strings.Fields("title severity description mitigation date cvssv3 cvssv3_score vulnerability_ids endpoints unique_id_from_tool vuln_id_from_tool " +
		"component_name component_version active verified static_finding dynamic_finding tags")
	records := append(street(), hostile(), big())
	want := 0
	for _, r := range records {
		want += len(r.Findings)
	}
	for name, d := range map[string]report.Data{
		"as it is":  {Title: rude, Hosts: report.Records(records)},
		"anonymous": report.Data{Title: rude, Hosts: report.Records(records)}.Anonymise([]byte("a key of the tests")),
	} {
		var b bytes.Buffer
		if err := report.DefectDojo(&b, d); err != nil {
			t.Fatal(err)
		}
		safeToShow(t, b.String())
		var file struct {
			Name, Type string
			Findings   []map[string]any
		}
		if err := json.Unmarshal(b.Bytes(), &file); err != nil {
			t.Fatal(err)
		}
		if len(file.Findings) != want || file.Type != "Gatehouse" {
			t.Errorf("%s: %d findings, want %d", name, len(file.Findings), want)
		}
		for _, f := range file.Findings {
			for field := range f {
				if !slices.Contains(allowed, field) {
					t.Errorf("%s: the field %s", name, field)
				}
			}
			title, _ := f["title"].(string)
			if len([]rune(title)) > 511 || title == "" || f["description"] == "" || !slices.Contains([]any{"Critical", "High", "Medium", "Low", "Info"}, f["severity"]) {
				t.Errorf("%s: %v", name, f)
			}
			if _, err := time.Parse(time.DateOnly, f["date"].(string)); err != nil {
				t.Error(err)
			}
			for _, at := range f["endpoints"].([]any) {
				if u, err := url.Parse(at.(string)); err != nil || u.Hostname() == "" || u.Port() == "" {
					t.Errorf("%s: endpoint %v: %v", name, at, err)
				}
			}
			if len(f["unique_id_from_tool"].(string)) != 64 {
				t.Errorf("%s: id %v", name, f["unique_id_from_tool"])
			}
			if strings.Contains(f["description"].(string), "<script>") {
				t.Errorf("%s: markup in %v", name, f["description"])
			}
		}
	}
}

// TestMarkdown: each row has the cells of its head, and nothing of a host's is
// more than text, nor a link or a mention.
func TestMarkdown(t *testing.T) {
	d := whole(3000)
	var records []wave.Record
	for r := range d.Hosts {
		records = append(records, r)
	}
	worst := hostile()
	worst.Findings[0].Score, worst.Findings[0].Severity = 10, "critical"
	worst.Owner.Provider = "@everyone www.evil.example a@evil.example http://evil.example | `x` <!-- $x$"
	worst.Address = "1.0.0.1"
	d.Hosts = report.Records(append(records, worst))
	d.Title = rude
	var b bytes.Buffer
	if err := report.Markdown(&b, d); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	safeToShow(t, text)
	if len(text) > 65536 {
		t.Errorf("%d bytes are too many for a comment", len(text))
	}
	cells := 0
	for line := range strings.Lines(text) {
		n := strings.Count(line, "|")
		switch {
		case n == 0:
			cells = 0
		case cells == 0:
			cells = n
		case n != cells:
			t.Errorf("%d bars, want %d: %s", n, cells, line)
		}
	}
	for _, live := range []string{"<", "@", "://", "www.", "`", "](", "*", "$", "\\"} {
		if strings.Contains(text, live) {
			t.Errorf("%q in the text", live)
		}
	}
	for _, want := range []string{"| Germany |", "## Trend", "| 2025-09-10 | 1,139 |", "&#64;everyone www&#46;evil.example", "in the other formats of this report"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
}

// TestShadowserver: the columns come in the order of Shadowserver's, which is a
// contract, and there is a row for each host with a finding.
func TestShadowserver(t *testing.T) {
	records := append(street(), hostile())
	records[0].Owner = big().Owner
	var b bytes.Buffer
	if err := report.Shadowserver(&b, report.Records(records)); err != nil {
		t.Fatal(err)
	}
	safeToShow(t, b.String())
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	const want = "timestamp,severity,ip,protocol,port,hostname,tag,asn,geo,region,city,naics,hostname_source,sector,version,models,largest_model,cves,id"
	if got := strings.Join(rows[0], ","); got != want {
		t.Errorf("columns %s", got)
	}
	found := 0
	for _, r := range records {
		if len(r.Findings) > 0 {
			found++
		}
	}
	if len(rows)-1 != found {
		t.Errorf("%d rows, want %d", len(rows)-1, found)
	}
	for _, row := range rows[1:] {
		if _, err := time.Parse("2006-01-02 15:04:05", row[0]); err != nil {
			t.Error(err)
		}
		if _, err := netip.ParseAddr(row[2]); err != nil || row[3] != "tcp" || !strings.HasPrefix(row[6], "ollama;") {
			t.Errorf("row %q: %v", row, err)
		}
		for _, value := range row {
			formula(t, value)
		}
	}
	row := rows[slices.IndexFunc(rows, func(row []string) bool { return row[2] == "127.0.0.7" })]
	if fmt.Sprint(row[:7]) != "[2026-11-24 12:00:00 critical 127.0.0.7 tcp 11434  ollama;ollama-open;ollama-manage-open;ollama-outdated;ollama-cleartext]" {
		t.Errorf("row %q", row)
	}
}
