// Package report writes what a wave found: a table for a terminal, a page of
// HTML and a PDF of it, JSON Lines, JSON, CSV, SARIF, STIX, Markdown, and what
// DefectDojo and the readers of Shadowserver's reports take.
// It never judges and never touches the network, and nothing that a host said
// leaves it in a form that a terminal or a spreadsheet would obey.
package report

import (
	"cmp"
	"iter"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// Hosts is a stream of records, from memory or from disk. The first error ends
// it, and the report with it.
type Hosts = iter.Seq2[wave.Record, error]

// Records is the stream of the records in a slice.
func Records(records []wave.Record) Hosts {
	return func(yield func(wave.Record, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Sort puts records in the order of Compare.
func Sort(records []wave.Record) { slices.SortStableFunc(records, Compare) }

// Compare orders records for a reader: the most severe first, then by outcome,
// then by address as a number, then by port.
func Compare(a, b wave.Record) int { return rankOf(&a).compare(rankOf(&b)) }

// rank is what a record is ordered by.
type rank struct {
	severity int // from 0, no finding
	outcome  int // from 0, open
	addr     netip.Addr
	port     uint16
	address  string // tells apart what is not an address
	path     string
}

func rankOf(r *wave.Record) rank {
	addr, _ := netip.ParseAddr(r.Address)
	return rank{
		severity: severityRank(worst(r.Findings)),
		outcome:  outcomeRank(r.Outcome),
		addr:     addr.Unmap(),
		port:     r.Port,
		address:  r.Address,
		path:     r.Path,
	}
}

func (a rank) compare(b rank) int {
	return cmp.Or(
		cmp.Compare(b.severity, a.severity),
		cmp.Compare(a.outcome, b.outcome),
		a.addr.Compare(b.addr),
		cmp.Compare(a.port, b.port),
		cmp.Compare(a.address, b.address),
		cmp.Compare(a.path, b.path),
	)
}

// severities is every severity, from the worst to the least.
var severities = []finding.Severity{finding.Critical, finding.High, finding.Medium, finding.Low, finding.None}

// severityRank is higher for the more severe; a severity it does not know is
// no more than None.
func severityRank(s finding.Severity) int {
	if i := slices.Index(severities, s); i >= 0 {
		return len(severities) - 1 - i
	}
	return 0
}

func outcomeRank(o finding.Outcome) int {
	if i := slices.Index(finding.Outcomes, o); i >= 0 {
		return i
	}
	return len(finding.Outcomes)
}

// worst is the greatest severity among findings, None when there is none.
func worst(findings []finding.Finding) finding.Severity {
	s := finding.None
	for _, f := range findings {
		if severityRank(f.Severity) > severityRank(s) {
			s = f.Severity
		}
	}
	return s
}

// largest is the model that takes the most room, nil when there is none.
func largest(models []finding.Model) *finding.Model {
	var m *finding.Model
	for i := range models {
		if m == nil || models[i].SizeBytes > m.SizeBytes {
			m = &models[i]
		}
	}
	return m
}

// hostPort is how a place is named: the host name if it was asked for by one,
// the address otherwise, and the port.
func hostPort(r *wave.Record) string {
	if _, _, ok := pseudonym(r.Address); ok {
		return r.Address + ":" + strconv.Itoa(int(r.Port))
	}
	host := r.Name
	if host == "" {
		host = r.Address
	}
	return net.JoinHostPort(host, strconv.Itoa(int(r.Port)))
}

// uri is the address of the place as a browser would take it; that of an
// anonymous host leads nowhere (RFC 2606).
func uri(r *wave.Record) string {
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(r.Address, strconv.Itoa(int(r.Port))), Path: r.Path}
	if _, hash, ok := pseudonym(r.Address); ok {
		u.Host = net.JoinHostPort(hash+".anonymous.invalid", strconv.Itoa(int(r.Port)))
	}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	return u.String()
}
