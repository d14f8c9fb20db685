package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"io"
	"net/mail"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	gomail "github.com/wneessen/go-mail"

	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/wave"
)

// Sender is who writes to those who run networks, and by what authority.
type Sender struct {
	From      mail.Address
	Authority string // "" when nobody says
	Source    string // the addresses that the looks came from, "" when nobody says
	UserAgent string // of the looks, "" when nobody says
}

// Draft is one mail to one network, to be read and sent by a person.
type Draft struct {
	File    string // a name for it
	Network string // for people
	To      string // "" when no address is known
	Web     string // where no mail address is known: a contact of another kind
	Hosts   []wave.Record
}

// maxReports is how many servers of one network get a report of their own; the
// list of hosts has all of them.
const maxReports = 100

// Drafts groups the open servers of a wave by network and by who is told: sorted,
// so that the same wave gives the same drafts.
func Drafts(hosts Hosts, leave func(*wave.Record) bool) ([]Draft, error) {
	by := make(map[string]*Draft)
	for r, err := range hosts {
		if err != nil {
			return nil, err
		}
		if r.Outcome != finding.Open || leave != nil && leave(&r) {
			continue
		}
		to, web := contactOf(&r.Owner)
		key := strconv.FormatUint(uint64(r.Owner.ASN), 10) + " " + strings.ToLower(to)
		d := by[key]
		if d == nil {
			d = &Draft{To: to, Web: web, Network: networkName(&r.Owner)}
			by[key] = d
		}
		d.Hosts = append(d.Hosts, r)
	}
	drafts := make([]Draft, 0, len(by))
	for _, d := range by {
		slices.SortFunc(d.Hosts, func(a, b wave.Record) int {
			x, y := wave.StateOf(&a), wave.StateOf(&b)
			return x.Place.Compare(y.Place)
		})
		drafts = append(drafts, *d)
	}
	slices.SortFunc(drafts, func(a, b Draft) int {
		return cmp.Or(cmp.Compare(a.Hosts[0].Owner.ASN, b.Hosts[0].Owner.ASN), strings.Compare(a.To, b.To))
	})
	taken := make(map[string]int)
	for i := range drafts {
		d := &drafts[i]
		name := "unknown-network"
		if o := &d.Hosts[0].Owner; o.ASN != 0 {
			name = strings.Trim(fmt.Sprintf("AS%d-%s", o.ASN, fileWords(cmp.Or(o.Network, o.Provider))), "-")
		}
		if taken[name]++; taken[name] > 1 {
			name += "-" + strconv.Itoa(taken[name])
		}
		d.File = name + ".eml"
	}
	return drafts, nil
}

// contactOf is the mail address that is trusted most, and a contact of another
// kind where there is none.
func contactOf(o *owner.Owner) (to, web string) {
	best, least := 0.0, 0.0
	for _, c := range o.Claims {
		if c.What != owner.Contact {
			continue
		}
		text := strings.TrimPrefix(c.Value, "mailto:")
		if a, err := mail.ParseAddress(text); err == nil && a.Address == text {
			if c.Confidence > best {
				to, best = a.Address, c.Confidence
			}
		} else if u, err := url.Parse(c.Value); err == nil && u.Scheme == "https" && c.Confidence > least {
			web, least = Clean(c.Value), c.Confidence
		}
	}
	return to, web
}

func networkName(o *owner.Owner) string {
	if o.ASN == 0 {
		return "a network that is not known"
	}
	name := "AS" + strconv.FormatUint(uint64(o.ASN), 10)
	if n := cmp.Or(o.Network, o.Provider); n != "" {
		name += " (" + short(n, 60) + ")"
	}
	return name
}

// fileWords is what a file may be called after a network.
func fileWords(s string) string {
	words := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9') })
	return strings.Join(words[:min(len(words), 4)], "-")
}

// Write writes the mail (RFC 5322). The same wave, sender and hosts give the same
// bytes.
func (d *Draft) Write(w io.Writer, i *wave.Info, s *Sender) error {
	_, domain, _ := strings.Cut(s.From.Address, "@")
	sum := sha256.Sum256([]byte(i.Name + "\x00" + d.File + "\x00" + d.To))
	id := hex.EncodeToString(sum[:16])
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent(), gomail.WithBoundary("gatehouse-"+id))
	msg.FromMailAddress(&s.From)
	if d.To != "" {
		if err := msg.To(d.To); err != nil {
			return err
		}
	} else {
		msg.SetGenHeaderPreformatted("To", "abuse contact not known:;") // an empty group
	}
	msg.SetMessageIDWithValue(id + "@" + domain)
	at := i.Ended
	if at.IsZero() {
		at = i.Started
	}
	msg.SetDateWithValue(at.UTC())
	msg.Subject(fmt.Sprintf("Open to anybody: %s in %s", plural(uint64(len(d.Hosts)), "Ollama server"), d.Network))
	msg.SetGenHeader("X-Unsent", "1") // has mail programs open it for editing
	msg.SetBodyString(gomail.TypeTextPlain, d.text(i, s))
	if err := msg.AttachReader("hosts.csv", bytes.NewReader(d.list()), gomail.WithFileContentType("text/csv")); err != nil {
		return err
	}
	for n := range d.Hosts[:min(len(d.Hosts), maxReports)] {
		report, err := xarf(&d.Hosts[n], i, s)
		if err != nil {
			return err
		}
		if err := msg.AttachReader(fmt.Sprintf("xarf-%03d.json", n+1), bytes.NewReader(report), gomail.WithFileContentType("application/json")); err != nil {
			return err
		}
	}
	_, err := msg.WriteTo(w)
	return err
}

// may are the powers that a stranger has, in words.
var may = []struct {
	power func(*finding.Powers) finding.State
	words string
}{
	{func(p *finding.Powers) finding.State { return p.Read }, "list the models and read their properties"},
	{func(p *finding.Powers) finding.State { return p.Infer }, "use them, at the cost of whoever pays for the machine"},
	{func(p *finding.Powers) finding.State { return p.Manage }, "download models to it, replace them and delete them"},
}

func (d *Draft) text(i *wave.Info, s *Sender) string {
	first, last := d.Hosts[0].ObservedAt, d.Hosts[0].ObservedAt
	for k := range d.Hosts {
		if at := d.Hosts[k].ObservedAt; at.Before(first) {
			first = at
		} else if at.After(last) {
			last = at
		}
	}
	n := uint64(len(d.Hosts))
	var t strings.Builder
	para := func(format string, a ...any) {
		for _, line := range wrap(fmt.Sprintf(format, a...), 72) {
			t.WriteString(line + "\n")
		}
		t.WriteString("\n")
	}
	const stamp = "2006-01-02 15:04 UTC"
	when := "on " + first.UTC().Format(stamp)
	if last.Sub(first) >= time.Minute {
		when = "between " + first.UTC().Format(stamp) + " and " + last.UTC().Format(stamp)
	}
	para("Dear abuse team,")
	what := "a server that runs Ollama, a program that serves language models, and answers anybody"
	if n > 1 {
		what = count(n) + " servers that run Ollama, a program that serves language models, and answer anybody"
	}
	para("%s we saw in %s %s without asking for a password.",
		strings.ToUpper(when[:1])+when[1:], d.Network, what)
	t.WriteString("What anybody can do there:\n")
	for _, m := range may {
		open := 0
		for k := range d.Hosts {
			if p := m.power(&d.Hosts[k].Powers); p == finding.Proven || p == finding.Reachable {
				open++
			}
		}
		if open > 0 {
			fmt.Fprintf(&t, "  - %s (%d of %d)\n", m.words, open, n)
		}
	}
	t.WriteString("\nWhere:\n")
	for k := range d.Hosts[:min(len(d.Hosts), newsRows)] {
		fmt.Fprintf(&t, "  %s\n", Clean(hostPort(&d.Hosts[k])))
	}
	if more := len(d.Hosts) - newsRows; more > 0 {
		fmt.Fprintf(&t, "  and %s more, in hosts.csv\n", count(uint64(more)))
	}
	t.WriteString(`
How to close it, on the server:
  1. Set OLLAMA_HOST=127.0.0.1 for Ollama, start it again, and block
     its port (11434 unless it was changed) from outside.
  2. Whoever needs it from outside puts a proxy that asks for
     credentials in front.

`)
	switch {
	case i.Source != "scan":
		para("We know this from %s, and asked the servers nothing ourselves.", Clean(i.Source))
	default:
		said, from := "", ""
		if s.UserAgent != "" {
			said = " (" + Clean(s.UserAgent) + ")"
		}
		if s.Source != "" {
			from = " and came from " + Clean(s.Source)
		}
		para("We asked with requests that change nothing, used no password, and kept nothing that users wrote. Each request said in its User-Agent who asks%s%s.", said, from)
	}
	who := "We are " + cmp.Or(Clean(s.From.Name), s.From.Address) + " <" + s.From.Address + ">."
	if s.Authority != "" {
		who += " We look by the authority of: " + Clean(s.Authority)
	}
	para("%s", who)
	para("Please pass this on to whoever runs the servers, and to nobody else (TLP:AMBER). Attached are the list of hosts and, for machines, a report in X-ARF form for each server%s.", upTo(len(d.Hosts)))
	para("If you don't want your networks to be looked at, answer with their addresses: we leave them out from then on.")
	return strings.TrimRight(t.String(), "\n") + "\n"
}

func upTo(n int) string {
	if n > maxReports {
		return fmt.Sprintf(", up to %d of them", maxReports)
	}
	return ""
}

func (d *Draft) list() []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	rows := [][]string{{"address", "port", "observed_at", "version", "tls", "models", "findings"}}
	for k := range d.Hosts {
		r := &d.Hosts[k]
		var ids []string
		for _, f := range r.Findings {
			ids = append(ids, f.ID)
		}
		version := ""
		if plainVersion.MatchString(r.Identity.Version) {
			version = r.Identity.Version
		}
		rows = append(rows, []string{r.Address, strconv.Itoa(int(r.Port)), r.ObservedAt.UTC().Format(time.RFC3339), version, strconv.FormatBool(r.TLS != nil), strconv.Itoa(len(r.Models)), strings.Join(ids, " ")})
	}
	_ = w.WriteAll(rows) // into memory
	return b.Bytes()
}

// xarf is the report of one server as XARF 4 has it: category vulnerability, type
// open_service.
func xarf(r *wave.Record, i *wave.Info, s *Sender) ([]byte, error) {
	_, domain, _ := strings.Cut(s.From.Address, "@")
	who := map[string]string{"org": short(cmp.Or(s.From.Name, domain), 190), "contact": s.From.Address, "domain": domain}
	var lines, cves []string
	score, severity := 0.0, finding.None
	for _, f := range r.Findings {
		lines = append(lines, f.ID+": "+Clean(f.Title))
		for _, e := range f.Evidence {
			lines = append(lines, "  "+short(e, 400))
		}
		cves = append(cves, f.CVEs...)
		if f.Score > score {
			score, severity = f.Score, f.Severity
		}
	}
	payload := strings.Join(lines, "\n") + "\n"
	sum := sha256.Sum256([]byte(payload))
	// Of the form that the schema asks for, and the same each time.
	id := uuid.NewHash(sha256.New(), uuid.NameSpaceURL, []byte(i.Name+" "+r.Address+" "+strconv.Itoa(int(r.Port))+" "+r.Name+r.Path), 4)
	v := map[string]any{
		"xarf_version": "4.0.0", "report_id": id.String(), "timestamp": r.ObservedAt.UTC().Format(time.RFC3339),
		"reporter": who, "sender": who, "source_identifier": r.Address, "source_port": r.Port,
		"category": "vulnerability", "type": "open_service", "service": "ollama", "service_port": r.Port,
		"evidence_source": "vulnerability_scan", "confidence": min(max(r.Identity.Confidence, 0), 1),
		"description": "An Ollama server that answers anybody without credentials.",
		"severity":    severity, "cvss_score": score, "tags": []string{"tlp:amber", "tool:gatehouse"},
		"evidence": []map[string]any{{
			"content_type": "text/plain", "description": "what was asked and what was answered", "size": len(payload),
			"payload": base64.StdEncoding.EncodeToString([]byte(payload)), "hash": "sha256:" + hex.EncodeToString(sum[:]),
		}},
	}
	if plainVersion.MatchString(r.Identity.Version) {
		v["service_version"] = r.Identity.Version
	}
	if len(cves) > 0 {
		slices.Sort(cves)
		cves = slices.Compact(cves)
		v["cve_ids"] = cves[:min(len(cves), 10)]
	}
	return json.Marshal(v, json.Deterministic(true), jsontext.WithIndent("  "))
}
