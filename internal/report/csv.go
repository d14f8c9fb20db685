package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// column is one column of the CSV: its name, which is a contract, and its cell.
type column struct {
	name string
	cell func(r *wave.Record) string
}

// columns are the columns of the CSV in their order. Names and order stay as
// they are; a new column goes at the end.
//
//	wave, target      which pass, and what the user asked for
//	address … path    the place; name is the host name asked for, if any
//	tls               the TLS version, empty for cleartext
//	observed_at       RFC 3339, UTC
//	outcome, reason   what it turned out to be, and why
//	product … confidence   what answers there; confidence is 0 to 1
//	hello … account   proven, reachable, denied or unknown, for each power
//	models … largest_bytes   how many models, and the one that takes the most room
//	running, vram_bytes      how many are in memory, and what they take of the GPU's
//	hardware, min_memory_bytes   the least machine that explains it
//	severity, score   of the worst finding
//	critical … low    how many findings of each severity
//	findings, cves    their ids, separated by spaces
//	country … contact who probably runs it
//	notes             what people say of the host, of a wave that is kept
//	from              the vantage that looked, empty for the machine that tells
var columns = []column{
	{"wave", func(r *wave.Record) string { return r.Wave }},
	{"target", func(r *wave.Record) string { return r.Target }},
	{"address", func(r *wave.Record) string { return r.Address }},
	{"port", func(r *wave.Record) string { return strconv.Itoa(int(r.Port)) }},
	{"name", func(r *wave.Record) string { return r.Name }},
	{"path", func(r *wave.Record) string { return r.Path }},
	{"tls", func(r *wave.Record) string {
		if r.TLS == nil {
			return ""
		}
		return r.TLS.Version
	}},
	{"observed_at", func(r *wave.Record) string { return r.ObservedAt.UTC().Format(time.RFC3339) }},
	{"outcome", func(r *wave.Record) string { return string(r.Outcome) }},
	{"reason", func(r *wave.Record) string { return r.Reason }},
	{"product", func(r *wave.Record) string { return r.Identity.Product }},
	{"version", func(r *wave.Record) string { return r.Identity.Version }},
	{"confidence", func(r *wave.Record) string { return number(r.Identity.Confidence) }},
	{"hello", func(r *wave.Record) string { return string(r.Powers.Hello) }},
	{"read", func(r *wave.Record) string { return string(r.Powers.Read) }},
	{"infer", func(r *wave.Record) string { return string(r.Powers.Infer) }},
	{"manage", func(r *wave.Record) string { return string(r.Powers.Manage) }},
	{"account", func(r *wave.Record) string { return string(r.Powers.Account) }},
	{"models", func(r *wave.Record) string { return strconv.Itoa(len(r.Models)) }},
	{"largest_model", func(r *wave.Record) string {
		if m := largest(r.Models); m != nil {
			return m.Name
		}
		return ""
	}},
	{"largest_bytes", func(r *wave.Record) string {
		if m := largest(r.Models); m != nil {
			return strconv.FormatInt(max(m.SizeBytes, 0), 10)
		}
		return "0"
	}},
	{"running", func(r *wave.Record) string { return strconv.Itoa(len(r.Running)) }},
	{"vram_bytes", func(r *wave.Record) string { return strconv.FormatInt(vram(r.Running), 10) }},
	{"hardware", func(r *wave.Record) string {
		if r.Hardware == nil {
			return ""
		}
		return r.Hardware.Class
	}},
	{"min_memory_bytes", func(r *wave.Record) string {
		if r.Hardware == nil {
			return "0"
		}
		return strconv.FormatInt(max(r.Hardware.MinMemoryBytes, 0), 10)
	}},
	{"severity", func(r *wave.Record) string { return string(worst(r.Findings)) }},
	{"score", func(r *wave.Record) string {
		score := 0.0
		for _, f := range r.Findings {
			score = max(score, f.Score)
		}
		return number(score)
	}},
	{"critical", countOf(finding.Critical)},
	{"high", countOf(finding.High)},
	{"medium", countOf(finding.Medium)},
	{"low", countOf(finding.Low)},
	{"findings", func(r *wave.Record) string {
		var ids []string
		for _, f := range r.Findings {
			ids = append(ids, f.ID)
		}
		return strings.Join(ids, " ")
	}},
	{"cves", cvesOf},
	{"country", func(r *wave.Record) string { return r.Owner.Country }},
	{"asn", func(r *wave.Record) string { return strconv.FormatUint(uint64(r.Owner.ASN), 10) }},
	{"network", func(r *wave.Record) string { return r.Owner.Network }},
	{"provider", func(r *wave.Record) string { return r.Owner.Provider }},
	{"owner", func(r *wave.Record) string { return r.Owner.Name }},
	{"contact", func(r *wave.Record) string { return r.Owner.Contact }},
	{"notes", notesOf},
	{"from", func(r *wave.Record) string { return r.From }},
}

// Columns are the names of the CSV's columns in their order.
func Columns() []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return names
}

// CSV writes a header and one row a host, after RFC 4180 with bare newlines.
// Every row is one line; no cell holds a control character or a formula. Its
// memory does not grow with the number of hosts.
func CSV(w io.Writer, hosts Hosts) error {
	return writeCSV(w, columns, hosts, func(*wave.Record) bool { return true })
}

// writeCSV writes a header and a row for each host that is wanted.
func writeCSV(w io.Writer, columns []column, hosts Hosts, wanted func(*wave.Record) bool) error {
	out := csv.NewWriter(w)
	row := make([]string, len(columns))
	for i, c := range columns {
		row[i] = c.name
	}
	out.Write(row) // csv keeps the first error for Error
	for r, err := range hosts {
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		if !wanted(&r) {
			continue
		}
		for i, c := range columns {
			row[i] = cell(c.cell(&r))
		}
		if err := out.Write(row); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// cell makes s a text that no spreadsheet takes for a formula. What would start
// one gets an apostrophe before it, also after spaces and quotes, as
// https://owasp.org/www-community/attacks/CSV_Injection advises, and also after
// a semicolon, at which a spreadsheet in much of Europe splits the line.
func cell(s string) string {
	parts := strings.Split(Clean(s), ";")
	for i, part := range parts {
		bare := strings.TrimLeftFunc(part, func(r rune) bool {
			return unicode.IsSpace(r) || r == '"' || r == '\''
		})
		if bare != "" && strings.ContainsRune("=+-@＝＋－＠", []rune(bare)[0]) {
			parts[i] = "'" + part
		}
	}
	return strings.Join(parts, ";")
}

// cvesOf are the vulnerabilities of all findings, each once.
func cvesOf(r *wave.Record) string {
	var cves []string
	for _, f := range r.Findings {
		cves = append(cves, f.CVEs...)
	}
	slices.Sort(cves)
	return strings.Join(slices.Compact(cves), " ")
}

func countOf(s finding.Severity) func(*wave.Record) string {
	return func(r *wave.Record) string {
		n := 0
		for _, f := range r.Findings {
			if f.Severity == s {
				n++
			}
		}
		return strconv.Itoa(n)
	}
}

// vram is what the models in memory take of the GPU's; a host that claims less
// than nothing or more than a number holds is not believed.
func vram(running []finding.Running) int64 {
	var sum int64
	for _, m := range running {
		if m.VRAMBytes > 0 && sum <= math.MaxInt64-m.VRAMBytes {
			sum += m.VRAMBytes
		}
	}
	return sum
}

func number(f float64) string {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return ""
	}
	return strconv.FormatFloat(round(f), 'f', -1, 64)
}
