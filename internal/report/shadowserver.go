package report

import (
	"io"
	"strconv"
	"strings"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// shadowserverColumns are the columns that Shadowserver's scan reports begin
// with, in their order, and ours after them. IntelMQ's parser reads columns by
// name and keeps those it does not know.
var shadowserverColumns = []column{
	{"timestamp", func(r *wave.Record) string { return r.ObservedAt.UTC().Format("2006-01-02 15:04:05") }},
	{"severity", func(r *wave.Record) string {
		if s := worst(r.Findings); s != finding.None {
			return string(s)
		}
		return "info"
	}},
	{"ip", func(r *wave.Record) string {
		network, _, _ := pseudonym(r.Address)
		return network
	}},
	{"protocol", func(*wave.Record) string { return "tcp" }},
	{"port", func(r *wave.Record) string { return strconv.Itoa(int(r.Port)) }},
	{"hostname", func(r *wave.Record) string { return r.Name }},
	{"tag", func(r *wave.Record) string {
		tags := []string{"ollama"}
		for _, f := range r.Findings {
			tags = append(tags, f.ID)
		}
		return strings.Join(tags, ";")
	}},
	{"asn", func(r *wave.Record) string {
		if r.Owner.ASN == 0 {
			return ""
		}
		return strconv.FormatUint(uint64(r.Owner.ASN), 10)
	}},
	{"geo", func(r *wave.Record) string { return r.Owner.Country }},
	{"region", func(*wave.Record) string { return "" }},
	{"city", func(*wave.Record) string { return "" }},
	{"naics", func(*wave.Record) string { return "" }},
	{"hostname_source", func(r *wave.Record) string {
		if r.Name == "" {
			return ""
		}
		return "target"
	}},
	{"sector", func(*wave.Record) string { return "" }},
	{"version", func(r *wave.Record) string { return version(r.Identity) }},
	{"models", func(r *wave.Record) string { return strconv.Itoa(len(r.Models)) }},
	{"largest_model", func(r *wave.Record) string {
		if m := largest(r.Models); m != nil {
			return m.Name
		}
		return ""
	}},
	{"cves", cvesOf},
	{"id", func(r *wave.Record) string {
		return fingerprint(r.Address, strconv.Itoa(int(r.Port)), r.Path)[:32]
	}},
}

// Shadowserver writes CSV in the column order of Shadowserver's scan reports: a
// row for each host with a finding, so that what reads theirs reads ours. The ip
// of an anonymous host is its network.
func Shadowserver(w io.Writer, hosts Hosts) error {
	return writeCSV(w, shadowserverColumns, hosts, func(r *wave.Record) bool { return len(r.Findings) > 0 })
}
