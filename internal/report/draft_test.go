package report_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

func openHost(addr string, asn uint32, network string, contacts ...owner.Claim) wave.Record {
	r := wave.Record{Address: addr, Port: 11434, ObservedAt: time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC)}
	r.Outcome, r.Identity.Version, r.Identity.Confidence = finding.Open, "0.17.4", 0.9
	r.Powers.Read, r.Powers.Manage = finding.Proven, finding.Reachable
	r.Findings = []finding.Finding{{ID: "ollama-open", Title: "open", Severity: finding.Critical, Score: 10, CVEs: []string{"CVE-2025-63389"}, Evidence: []string{"GET / -> 200 Ollama is running"}}}
	r.Owner = owner.Owner{ASN: asn, Network: network, Claims: contacts}
	return r
}

func contact(value string, confidence float64) owner.Claim {
	return owner.Claim{What: owner.Contact, Value: value, Source: "test", Confidence: confidence}
}

func hostsOf(list ...wave.Record) report.Hosts {
	return func(yield func(wave.Record, error) bool) {
		for _, r := range list {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// TestDrafts reads the mails back with the standard library, and holds each
// report in them to the fields that XARF 4 asks for.
func TestDrafts(t *testing.T) {
	guarded := openHost("192.0.2.9", 64500, "One Net")
	guarded.Outcome = finding.Guarded
	excused := openHost("192.0.2.10", 64500, "One Net")
	nasty := openHost("198.51.100.1", 64501, "Evil\r\nBcc: x@example.org", contact("https://example.org/report", 0.7))
	nasty.Identity.Version = "1\r\nX-Bad: yes"
	hosts := hostsOf(
		nasty, guarded, excused,
		openHost("192.0.2.2", 64500, "One Net", contact("abuse@one.example", 0.8), contact("mailto:other@one.example", 0.7)),
		openHost("192.0.2.1", 64500, "One Net", contact("abuse@one.example", 0.8)),
		openHost("2001:db8::1", 0, ""),
	)
	drafts, err := report.Drafts(hosts, func(r *wave.Record) bool { return r.Address == "192.0.2.10" })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range drafts {
		got = append(got, fmt.Sprintf("%s to %q %s %d", d.File, d.To, d.Web, len(d.Hosts)))
	}
	want := []string{
		`unknown-network.eml to ""  1`,
		`AS64500-one-net.eml to "abuse@one.example"  2`,
		`AS64501-evil-bcc-x-example.eml to "" https://example.org/report 1`,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("drafts %q, want %q", got, want)
	}
	info := &wave.Info{Number: 7, Name: "w7", Scope: "acme", Source: "scan", Ended: time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)}
	sender := &report.Sender{From: mail.Address{Name: "Acme CERT", Address: "cert@acme.example"}, Authority: "order 12", Source: "203.0.113.5", UserAgent: "Gatehouse/1"}
	for i := range drafts {
		d := &drafts[i]
		var first, second bytes.Buffer
		if err := d.Write(&first, info, sender); err != nil {
			t.Fatal(err)
		}
		if err := d.Write(&second, info, sender); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("%s: another mail the second time, %v", d.File, err)
		}
		checkMail(t, d, first.Bytes())
	}
}

func checkMail(t *testing.T, d *report.Draft, text []byte) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	h := m.Header
	if from, err := h.AddressList("From"); err != nil || from[0].Address != "cert@acme.example" {
		t.Errorf("From %v, %v", from, err)
	}
	if at, err := h.Date(); err != nil || !at.Equal(time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)) {
		t.Errorf("Date %v, %v", at, err)
	}
	if to, err := h.AddressList("To"); err != nil || len(to) != min(len(d.To), 1) {
		t.Errorf("To %v, %v", to, err)
	}
	if !regexp.MustCompile(`^<[0-9a-f]{32}@acme\.example>$`).MatchString(h.Get("Message-ID")) || h.Get("Mime-Version") != "1.0" {
		t.Errorf("Message-ID %q, MIME-Version %q", h.Get("Message-ID"), h.Get("Mime-Version"))
	}
	if h.Get("Bcc") != "" || h.Get("X-Bad") != "" {
		t.Error("a network or a host wrote a header")
	}
	if subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject")); err != nil || !strings.Contains(subject, d.Network) {
		t.Errorf("Subject %q, %v", subject, err)
	}
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" {
		t.Fatalf("Content-Type %q, %v", kind, err)
	}
	parts := multipart.NewReader(m.Body, params["boundary"])
	reports := 0
	for {
		p, err := parts.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch name := p.FileName(); {
		case name == "":
			body, err := io.ReadAll(quotedprintable.NewReader(p))
			for _, part := range []string{d.Hosts[0].Address, "OLLAMA_HOST=127.0.0.1", "order 12", "203.0.113.5", "leave them out"} {
				if err != nil || !strings.Contains(strings.Join(strings.Fields(string(body)), " "), part) {
					t.Errorf("the text has no %q: %v\n%s", part, err, body)
				}
			}
			for line := range strings.Lines(string(body)) {
				if len(strings.TrimRight(line, "\r\n")) > 78 {
					t.Errorf("a long line: %q", line)
				}
			}
		case name == "hosts.csv":
			body, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
			if err != nil || strings.Count(string(body), "\n") != len(d.Hosts)+1 {
				t.Errorf("%v, %s", err, body)
			}
		default:
			body, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
			if err != nil {
				t.Fatal(err)
			}
			checkXARF(t, body, &d.Hosts[reports])
			reports++
		}
	}
	if reports != len(d.Hosts) {
		t.Errorf("%d reports of %d servers", reports, len(d.Hosts))
	}
}

// checkXARF holds a report to the core schema of XARF 4 and to that of
// vulnerability/open_service.
func checkXARF(t *testing.T, text []byte, r *wave.Record) {
	t.Helper()
	type who struct{ Org, Contact, Domain string }
	var x struct {
		XARFVersion string `json:"xarf_version"`
		ReportID    string `json:"report_id"`
		Timestamp   time.Time
		Reporter    who
		Sender      who
		Source      string `json:"source_identifier"`
		Port        uint16 `json:"source_port"`
		Category    string
		Type        string
		Service     string
		Confidence  float64
		Tags        []string
		Evidence    []struct {
			ContentType string `json:"content_type"`
			Payload     []byte
			Hash        string
		}
	}
	if err := json.Unmarshal(text, &x); err != nil {
		t.Fatal(err)
	}
	us := who{"Acme CERT", "cert@acme.example", "acme.example"}
	if x.XARFVersion != "4.0.0" || x.Category != "vulnerability" || x.Type != "open_service" || x.Service != "ollama" ||
		x.Reporter != us || x.Sender != us || x.Source != r.Address || x.Port != r.Port || !x.Timestamp.Equal(r.ObservedAt) {
		t.Errorf("a report that XARF does not take: %s", text)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(x.ReportID) {
		t.Errorf("report_id %q is no UUID of version 4's form", x.ReportID)
	}
	for _, tag := range x.Tags {
		if !regexp.MustCompile(`^[a-z0-9][a-z0-9_+-]*:[a-z0-9][a-z0-9_+.-]*$`).MatchString(tag) {
			t.Errorf("tag %q", tag)
		}
	}
	if len(x.Evidence) != 1 || !strings.Contains(string(x.Evidence[0].Payload), "Ollama is running") || !strings.HasPrefix(x.Evidence[0].Hash, "sha256:") {
		t.Errorf("evidence %+v", x.Evidence)
	}
}
