package report_test

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"

	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

// formats is every format that a report can have.
func formats(d report.Data) map[string]func(io.Writer) error {
	return map[string]func(io.Writer) error{
		"html": func(w io.Writer) error { return report.HTML(w, d) },
		"csv":  func(w io.Writer) error { return report.CSV(w, d.Hosts) },
		"json": func(w io.Writer) error { return report.JSON(w, d.Summary, d.Hosts) },
		"table": func(w io.Writer) error {
			return report.Table(w, d.Summary, d.Hosts, report.Options{Width: 200, Rows: -1})
		},
		"sarif":        func(w io.Writer) error { return report.SARIF(w, d.Version, d.Summary, d.Hosts) },
		"stix":         func(w io.Writer) error { return report.STIX(w, d) },
		"markdown":     func(w io.Writer) error { return report.Markdown(w, d) },
		"defectdojo":   func(w io.Writer) error { return report.DefectDojo(w, d) },
		"shadowserver": func(w io.Writer) error { return report.Shadowserver(w, d.Hosts) },
		"jsonl": func(w io.Writer) error {
			lines := report.NewLines(w)
			for r := range d.Hosts {
				if err := lines.Write(r); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// written is what a format writes, with what an HTML page has packed.
func written(t *testing.T, write func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String() + unpacked(t, b.String())
}

// disclose gives each record all that could name its host, in every place that a
// host or a database of owners could put it in.
func disclose(records []wave.Record) (secrets []string) {
	for i := range records {
		r := &records[i]
		host := "box" + strings.NewReplacer(".", "-", ":", "-").Replace(r.Address) + ".secret.example"
		r.Target, r.Name, r.Path = "https://"+host+"/private", host, "/private"
		r.Reason = "answers strangers at " + host
		r.Owner.Name, r.Owner.Contact = "Secret Ltd "+host, "abuse@"+host
		r.Owner.Claims = append(r.Owner.Claims, claim("name", host), claim("reverse dns", "ptr-"+host))
		if i%3 == 0 {
			r.Owner.Network = "network of " + host
		}
		if r.TLS != nil {
			r.TLS.Names, r.TLS.Subject, r.TLS.Issuer, r.TLS.Invalid = []string{host}, "CN="+host, "CN=secret CA", "valid for "+host
			r.TLS.SHA256 = strings.Repeat("5e", 32)
		}
		r.Identity.Signals = append(r.Identity.Signals, signal("Server: "+host))
		for j := range r.Models {
			r.Models[j].Name = "secret-model-" + host
			r.Models[j].RemoteHost = "https://" + host
			r.Models[j].Digest = strings.Repeat("d1", 32)
		}
		for j := range r.Running {
			r.Running[j].Name = "secret-model-" + host
		}
		for j := range r.Findings {
			f := &r.Findings[j]
			f.Evidence = append([]string{`GET /private/api/tags -> 200 {"host":"` + host + `"}`, "found at " + r.Address}, f.Evidence...)
			f.Remedy = "Bind it to loopback. Then look again: gatehouse scan --prove " + r.Address + ":11434"
		}
		if r.Hardware != nil {
			r.Hardware.Basis = "secret-model-" + host
		}
	}
	return []string{"secret", "Secret", "/private", "abuse@", strings.Repeat("5e", 32), strings.Repeat("d1", 32)}
}

// TestAnonymise: in no format does anything that names a host get through, and
// each names all hosts by their networks.
func TestAnonymise(t *testing.T) {
	d := whole(2600)
	var records []wave.Record
	for r := range d.Hosts {
		records = append(records, r)
	}
	for _, r := range street() {
		if r.Outcome != "broken" { // that is in TestAnonymiseHostile
			records = append(records, r)
		}
	}
	records = append(records, big())
	secrets := disclose(records)
	addresses := map[string]bool{}
	for _, r := range records {
		addresses[r.Address] = true
	}
	d.Hosts, d.Tally = report.Records(records), wave.Tally{}
	for i := range records {
		d.Tally.Add(&records[i])
	}
	known := written(t, formats(d)["jsonl"])
	for _, secret := range append(secrets, records[0].Address) {
		if !strings.Contains(known, secret) {
			t.Errorf("the report that is not anonymous does not have %s: this test could not fail", secret)
		}
	}
	d = d.Anonymise([]byte("a key of the tests"))
	for name, write := range formats(d) {
		text := written(t, write)
		for _, secret := range secrets {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s has %q: …%s…", name, secret, text[max(0, i-80):min(len(text), i+80)])
			}
		}
		for _, found := range address.FindAllString(text, -1) {
			if addresses[strings.Trim(found, ":.")] {
				t.Errorf("%s has the address %s", name, found)
				break
			}
		}
		if !strings.Contains(strings.NewReplacer("&#46;", ".", "&#58;", ":").Replace(text), "11.0.1.0/24") && name != "defectdojo" && name != "sarif" {
			t.Errorf("%s does not name a network", name)
		}
	}
}

// address is what could be one in a text, an IPv6 one in any of its forms.
var address = regexp.MustCompile(`[0-9]+(\.[0-9]+){3}|[0-9a-f]*:[0-9a-f:]{3,}`)

// TestAnonymiseHostile: what a host makes up does not get through either.
func TestAnonymiseHostile(t *testing.T) {
	d := report.Data{Hosts: report.Records([]wave.Record{hostile()}), Summary: account(nil)}
	h := hostile()
	d.Tally.Add(&h)
	d = d.Anonymise([]byte("a key of the tests"))
	for name, write := range formats(d) {
		text := written(t, write)
		for _, secret := range []string{"calc", "evil.example", "gpj.exe", "owned", "漢字", "127.0.0.7"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %q", name, secret)
			}
		}
	}
}

func TestAnonymiseTellsHostsApart(t *testing.T) {
	at := func(key string, r wave.Record) string {
		for a := range report.Anonymise(report.Records([]wave.Record{r}), []byte(key)) {
			return a.Address
		}
		return ""
	}
	const key = "0123456789abcdef"
	first := at(key, place("203.0.113.7", 11434, "open"))
	network, hash, ok := strings.Cut(first, "~")
	if network != "203.0.113.0/24" || len(hash) != 16 || !ok {
		t.Errorf("an address becomes %q", first)
	}
	if again := at(key, place("203.0.113.7", 8080, "guarded")); again != first {
		t.Errorf("the same address became %q and %q", first, again)
	}
	if mapped := at(key, place("::ffff:203.0.113.7", 11434, "open")); mapped != first {
		t.Errorf("the same address in the form of IPv6 became %q and %q", first, mapped)
	}
	if neighbour := at(key, place("203.0.113.8", 11434, "open")); neighbour == first || !strings.HasPrefix(neighbour, network+"~") {
		t.Errorf("a neighbour of %q became %q", first, neighbour)
	}
	if other := at(key+"0", place("203.0.113.7", 11434, "open")); other == first {
		t.Errorf("with another key it is %q too", other)
	}
	if six := at(key, place("2001:db8:1:2:3::4", 11434, "open")); !strings.HasPrefix(six, "2001:db8:1::/48~") {
		t.Errorf("an IPv6 address became %q", six)
	}
	named := place("203.0.113.7", 11434, "open")
	named.Name = "a.example"
	if door := at(key, named); door == first {
		t.Errorf("two doors of one address are both %q", door)
	}
	if what := at(key, place("no address", 11434, "open")); !strings.HasPrefix(what, "?~") {
		t.Errorf("what is no address became %q", what)
	}
}
