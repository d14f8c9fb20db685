package report

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// SARIF 2.1.0, as far as we use it. Section numbers are those of the standard:
// https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/sarif-v2.1.0-errata01-os-complete.html
const (
	sarifSchema  = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
	sarifVersion = "2.1.0"
)

type (
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct { // 3.27
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
		Rank         float64           `json:"rank"` // 0 to 100
		Suppressions []sarifPardon     `json:"suppressions,omitempty"`
		Properties   sarifProof        `json:"properties"`
	}
	sarifPardon struct { // 3.35
		Kind          string `json:"kind"`
		Status        string `json:"status"`
		Justification string `json:"justification"`
	}
	sarifLocation struct { // 3.28
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
		} `json:"physicalLocation"`
		Logical []sarifLogical `json:"logicalLocations"`
	}
	sarifLogical struct { // 3.33
		Name string `json:"name"`
		Full string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
	sarifProof struct {
		Severity   string   `json:"severity"`
		Score      float64  `json:"score"`
		Vector     string   `json:"vector"`
		CVEs       []string `json:"cves"`
		Evidence   []string `json:"evidence"`
		Remedy     string   `json:"remedy"`
		Outcome    string   `json:"outcome"`
		Product    string   `json:"product"`
		Version    string   `json:"version"`
		ObservedAt string   `json:"observedAt"`
	}
	sarifRule struct { // 3.49
		ID       string     `json:"id"`
		Short    sarifText  `json:"shortDescription"`
		Full     sarifText  `json:"fullDescription"`
		Help     *sarifText `json:"help,omitzero"`
		Defaults struct {
			Level string `json:"level"`
		} `json:"defaultConfiguration"`
		Properties struct {
			// A string: this is how code scanning reads the score of a rule.
			SecuritySeverity string   `json:"security-severity"`
			Tags             []string `json:"tags"`
		} `json:"properties"`

		score float64
	}
	sarifRest struct { // of 3.14, the run
		Tool struct {
			Driver struct {
				Name    string       `json:"name"`
				Version string       `json:"version,omitzero"`
				Rules   []*sarifRule `json:"rules"`
			} `json:"driver"`
		} `json:"tool"`
		Automation struct {
			ID string `json:"id"`
		} `json:"automationDetails"`
		Invocations []sarifInvocation `json:"invocations"`
		ColumnKind  string            `json:"columnKind"`
	}
	sarifInvocation struct { // 3.20
		Start      string       `json:"startTimeUtc,omitzero"`
		End        string       `json:"endTimeUtc,omitzero"`
		Successful bool         `json:"executionSuccessful"`
		Properties wave.Summary `json:"properties"`
	}
)

// SARIF writes a SARIF 2.1.0 log: a rule for each kind of finding, a result for
// each finding of each host, a line each. The version is that of Gatehouse, ""
// when not known. The fingerprint of a result is made of the finding's id and
// the host's address, port and path, so that a later wave's result for the same
// door is known as the same. Its memory does not grow with the number of hosts:
// the rules, known only at the end, follow the results.
func SARIF(w io.Writer, version string, sum wave.Summary, hosts Hosts) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "{\"$schema\":%q,\"version\":%q,\"runs\":[{\"results\":[", sarifSchema, sarifVersion)
	var rules []*sarifRule
	index := map[string]int{}
	separator := "\n"
	for r, err := range hosts {
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		for _, f := range r.Findings {
			i, ok := index[f.ID]
			if !ok {
				i = len(rules)
				index[f.ID] = i
				rules = append(rules, nil)
			}
			if rules[i] == nil || f.Score > rules[i].score {
				rules[i] = rule(f)
			}
			result, err := encode(result(&r, f, i))
			if err != nil {
				return err
			}
			b.WriteString(separator) // bufio keeps the first error for the next write
			if _, err := b.Write(result); err != nil {
				return err
			}
			separator = ",\n"
		}
	}

	var rest sarifRest
	rest.Tool.Driver.Name = "Gatehouse"
	rest.Tool.Driver.Version = Clean(version)
	rest.Tool.Driver.Rules = rules
	rest.Automation.ID = "gatehouse/" + Clean(sum.Scope) + "/" + Clean(sum.Wave)
	rest.Invocations = []sarifInvocation{{
		Start:      instant(sum.Started),
		End:        instant(sum.Ended),
		Successful: sum.Stopped == "",
		Properties: sum,
	}}
	rest.ColumnKind = "utf16CodeUnits"
	tail, err := encode(rest)
	if err != nil {
		return err
	}
	b.WriteString("\n],\n")
	b.Write(tail[1:]) // goes on with the run's object
	b.WriteString("]}\n")
	return b.Flush()
}

func result(r *wave.Record, f finding.Finding, ruleIndex int) sarifResult {
	place := uri(r)
	var at sarifLocation
	at.Physical.Artifact.URI = place
	at.Logical = []sarifLogical{{Name: Clean(hostPort(r)), Full: Clean(hostPort(r) + r.Path), Kind: "resource"}}
	return sarifResult{
		RuleID:    Clean(f.ID),
		RuleIndex: ruleIndex,
		Level:     level(f.Severity),
		Message:   sarifText{message(f.Title + " at " + place)},
		Locations: []sarifLocation{at},
		Fingerprints: map[string]string{
			"gatehouse/v1": fingerprint(f.ID, r.Address, strconv.Itoa(int(r.Port)), r.Path),
		},
		Rank:         base(f.Score) * 10,
		Suppressions: pardons(r),
		Properties: sarifProof{
			Severity:   string(f.Severity),
			Score:      f.Score,
			Vector:     f.Vector,
			CVEs:       f.CVEs,
			Evidence:   cleanAll(f.Evidence),
			Remedy:     Clean(f.Remedy),
			Outcome:    string(r.Outcome),
			Product:    Clean(r.Identity.Product),
			Version:    Clean(r.Identity.Version),
			ObservedAt: instant(r.ObservedAt),
		},
	}
}

// pardons are the notes that say that nothing is left to do about a host.
func pardons(r *wave.Record) (list []sarifPardon) {
	for i := range r.Notes {
		if n := &r.Notes[i]; n.Kind.Settles() {
			list = append(list, sarifPardon{Kind: "external", Status: "accepted", Justification: NoteLine(n)})
		}
	}
	return list
}

func rule(f finding.Finding) *sarifRule {
	d := &sarifRule{ID: Clean(f.ID), score: f.Score}
	d.Short.Text = message(f.Title)
	d.Full.Text = d.Short.Text
	if f.Vector != "" {
		d.Full.Text = message(fmt.Sprintf("%s (%s, %.1f)", f.Title, f.Vector, f.Score))
	}
	if f.Remedy != "" {
		d.Help = &sarifText{message(f.Remedy)}
	}
	d.Defaults.Level = level(f.Severity)
	d.Properties.SecuritySeverity = fmt.Sprintf("%.1f", base(f.Score))
	d.Properties.Tags = []string{"security", "ollama"}
	return d
}

// level is the SARIF level of a severity (3.27.10).
func level(s finding.Severity) string {
	switch s {
	case finding.Critical, finding.High:
		return "error"
	case finding.Medium:
		return "warning"
	case finding.Low:
		return "note"
	}
	return "none"
}

// base is a CVSS base score, which is 0 to 10 whatever was read.
func base(score float64) float64 {
	if score > 0 { // not NaN
		return min(score, 10)
	}
	return 0
}

// message is s as the text of a message: braces are doubled, or they would
// stand for arguments (3.11.5), and nothing in it can be a link (3.11.6).
func message(s string) string {
	s = strings.NewReplacer("{", "{{", "}", "}}", "](", "] (").Replace(Clean(s))
	if s == "" {
		return "-"
	}
	return s
}

// fingerprint is the hash of parts, each kept apart from the next.
func fingerprint(parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h[:])
}

// instant is a date and time as SARIF has it (3.9), "" for none.
func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func cleanAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = Clean(s)
	}
	return out
}
