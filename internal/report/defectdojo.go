package report

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// dojoFinding is one finding of DefectDojo's Generic Findings Import. A field
// that the importer does not know makes it refuse the file.
type dojoFinding struct {
	Title       string   `json:"title"`
	Severity    string   `json:"severity"` // Critical, High, Medium, Low, Info
	Description string   `json:"description"`
	Mitigation  string   `json:"mitigation,omitzero"`
	Date        string   `json:"date,omitzero"`
	Vector      string   `json:"cvssv3,omitzero"`
	Score       float64  `json:"cvssv3_score,omitzero"`
	CVEs        []string `json:"vulnerability_ids,omitzero"`
	Endpoints   []string `json:"endpoints"`
	Unique      string   `json:"unique_id_from_tool"`
	Rule        string   `json:"vuln_id_from_tool"`
	Component   string   `json:"component_name,omitzero"`
	Version     string   `json:"component_version,omitzero"`
	Active      bool     `json:"active"`
	Verified    bool     `json:"verified"`
	Static      bool     `json:"static_finding"`
	Dynamic     bool     `json:"dynamic_finding"`
	Accepted    bool     `json:"risk_accepted,omitzero"`
	False       bool     `json:"false_p,omitzero"`
	Tags        []string `json:"tags"`
}

// DefectDojo writes the findings in the JSON of DefectDojo's Generic Findings
// Import. A finding keeps its id from wave to wave, so that a reimport closes
// what is no longer there.
func DefectDojo(w io.Writer, d Data) error {
	b := bufio.NewWriter(w)
	head, err := encode(short(cmp.Or(d.Title, titleOf(d.Summary)), 200))
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "{\"name\":%s,\"type\":\"Gatehouse\",\"dynamic_tool\":true,\"static_tool\":false,\n\"findings\":[", head)
	separator := "\n"
	for r, err := range d.hosts() {
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		for _, f := range r.Findings {
			line, err := encode(dojo(&r, f))
			if err != nil {
				return err
			}
			b.WriteString(separator) // bufio keeps the first error for the next write
			if _, err := b.Write(line); err != nil {
				return err
			}
			separator = ",\n"
		}
	}
	b.WriteString("\n]}\n")
	return b.Flush()
}

func dojo(r *wave.Record, f finding.Finding) dojoFinding {
	out := dojoFinding{
		Title:       short(cmp.Or(f.Title, f.ID), 300) + " at " + short(hostPort(r)+r.Path, 180), // 511 characters at most
		Severity:    dojoSeverity(f.Severity),
		Description: dojoDescription(r, f),
		Mitigation:  markdownText(short(f.Remedy, 2000)),
		Vector:      Clean(f.Vector),
		Score:       base(f.Score),
		Endpoints:   []string{uri(r)},
		Unique:      fingerprint(f.ID, r.Address, strconv.Itoa(int(r.Port)), r.Path),
		Rule:        short(f.ID, 200),
		Component:   short(r.Identity.Product, 100),
		Version:     short(r.Identity.Version, 60),
		Active:      true,
		Verified:    f.ID == "ollama-manage-open" || f.ID == "ollama-infer-open", // these rest on proof alone
		Dynamic:     true,
		Tags:        []string{"ollama", short(string(r.Outcome), 20)},
	}
	if !r.ObservedAt.IsZero() {
		out.Date = day(r.ObservedAt)
	}
	for i := range r.Notes {
		// What DefectDojo has as accepted or false is not active in it.
		switch r.Notes[i].Kind {
		case wave.Accepted:
			out.Accepted, out.Active = true, false
		case wave.FalsePositive:
			out.False, out.Active, out.Verified = true, false, false
		}
	}
	for _, cve := range f.CVEs {
		out.CVEs = append(out.CVEs, short(cve, 50))
	}
	return out
}

// dojoDescription is shown as Markdown; what a host said is in it as text.
func dojoDescription(r *wave.Record, f finding.Finding) string {
	lines := []string{markdownText(short(cmp.Or(f.Title, f.ID), 300)) + "."}
	if len(f.Evidence) > 0 {
		lines = append(lines, "", "Evidence:", "")
	}
	for _, e := range f.Evidence[:min(len(f.Evidence), hostLines)] {
		lines = append(lines, "- "+markdownText(short(e, lineText)))
	}
	if what := version(r.Identity); what != "" {
		lines = append(lines, "", "Version: "+markdownText(short(what, 200)))
	}
	if len(r.Notes) > 0 {
		lines = append(lines, "", "Notes: "+markdownText(short(notesOf(r), 1000)))
	}
	return strings.Join(lines, "\n")
}

func dojoSeverity(s finding.Severity) string {
	switch s {
	case finding.Critical:
		return "Critical"
	case finding.High:
		return "High"
	case finding.Medium:
		return "Medium"
	case finding.Low:
		return "Low"
	}
	return "Info"
}
