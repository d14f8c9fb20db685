package report_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
	"gatehouse/internal/owner"
	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

// weighted is a name and how many of those it is drawn for.
type weighted struct {
	name string
	n    int
}

// april is what was published of April 2026: about 25,000 open servers, 7,600 of
// them in the EU, Germany third after China and the United States. What the
// publication leaves open is made up.
var april = []weighted{
	{"CN", 6210},
	{"US", 4390},
	{"DE", 3550},
	{"FR", 1180},
	{"NL", 640},
	{"PL", 470},
	{"FI", 390},
	{"IT", 330},
	{"ES", 260},
	{"SE", 190},
	{"RO", 140},
	{"AT", 110},
	{"BE", 90},
	{"CZ", 80},
	{"IE", 60},
	{"PT", 40},
	{"HU", 30},
	{"BG", 20},
	{"LT", 10},
	{"EE", 6},
	{"GR", 4},
	{"GB", 870},
	{"KR", 1120},
	{"JP", 790},
	{"IN", 760},
	{"RU", 640},
	{"HK", 560},
	{"SG", 480},
	{"CA", 430},
	{"BR", 380},
	{"CH", 290},
	{"TW", 260},
	{"TR", 120},
	{"UA", 90},
	{"NO", 60},
	{"RS", 9},
	{"IS", 3},
}

var european = map[string]bool{
	"DE": true, "FR": true, "NL": true, "PL": true, "FI": true, "IT": true, "ES": true, "SE": true, "RO": true, "AT": true, "BE": true,
	"CZ": true, "IE": true, "PT": true, "HU": true, "BG": true, "LT": true, "EE": true, "GR": true,
}

var carriers = []struct {
	weighted
	asn     uint32
	network string
}{
	{weighted{"Hetzner", 31}, 24940, "Hetzner Online GmbH"},
	{weighted{"Contabo", 19}, 51167, "Contabo GmbH"},
	{weighted{"OVH", 17}, 16276, "OVH SAS"},
	{weighted{"", 21}, 3320, "Deutsche Telekom AG"},
	{weighted{"Amazon", 9}, 16509, "Amazon.com, Inc."},
	{weighted{"", 12}, 4134, "CHINANET-BACKBONE"},
}

var catalogue = []struct {
	weighted
	parameters, quantization, family string
	bytes                            int64
}{
	{weighted{"llama3.2:3b", 24}, "3.2B", "Q4_K_M", "llama", 2_019_393_189},
	{weighted{"deepseek-r1:7b", 19}, "7.6B", "Q4_K_M", "qwen2", 4_683_075_271},
	{weighted{"qwen2.5:7b", 15}, "7.6B", "Q4_K_M", "qwen2", 4_683_087_332},
	{weighted{"nomic-embed-text:latest", 14}, "137M", "F16", "nomic-bert", 274_302_450},
	{weighted{"llama3.1:8b", 12}, "8.0B", "Q4_K_M", "llama", 4_920_753_328},
	{weighted{"gemma3:12b", 8}, "12.2B", "Q4_K_M", "gemma3", 8_149_190_253},
	{weighted{"deepseek-r1:32b", 6}, "32.8B", "Q4_K_M", "qwen2", 19_851_337_640},
	{weighted{"llama3.3:70b", 4}, "70.6B", "Q4_K_M", "llama", 42_520_413_916},
	{weighted{"smollm2:135m", 3}, "135M", "F16", "llama", 270_898_672},
}

// census makes n places up, the way april has them: about 25,000 of 34,000 open.
// The same n gives the same census.
func census(n int) (records []wave.Record, tally wave.Tally) {
	rng := rand.New(rand.NewPCG(4, 2026))
	versions := []string{"0.17.4", "0.13.5", "0.12.10", "0.9.6", "0.6.2", "0.5.7", "0.3.14", "0.1.32"}
	outcomes := []weighted{{"open", 735}, {"guarded", 150}, {"lookalike", 45}, {"honeypot", 30}, {"broken", 12}, {"other", 28}}
	pick := func(list []weighted) string {
		sum := 0
		for _, w := range list {
			sum += w.n
		}
		at := rng.IntN(sum)
		for _, w := range list {
			if at -= w.n; at < 0 {
				return w.name
			}
		}
		return ""
	}
	// The countries come in the shares they have, not by chance.
	var places []weighted
	for _, c := range april {
		for range c.n {
			places = append(places, c)
		}
	}
	rng.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	open := 0
	for i := range n {
		addr := netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), byte(1 + rng.IntN(250))})
		r := place(addr.String(), 11434, finding.Outcome(pick(outcomes)))
		if i%40 == 7 {
			r = place(fmt.Sprintf("2001:db8:%x:%x::%x", i>>8, i&0xff, 1+rng.IntN(9999)), 11434, r.Outcome)
		}
		r.Target, r.Wave = r.Address, "20260412T060000Z-k3"
		r.ObservedAt = time.Date(2026, 4, 12, 6, 0, 0, 0, time.UTC).Add(time.Duration(i) * 300 * time.Millisecond)
		country := places[open%len(places)].name
		if r.Outcome == finding.Open {
			open++
		}
		carrier := carriers[rng.IntN(len(carriers))]
		if !european[country] && carrier.asn == 3320 {
			carrier = carriers[4]
		}
		r.Owner = owner.Owner{Country: country, EU: european[country], ASN: carrier.asn, Network: carrier.network, Provider: carrier.name}
		r.Identity = finding.Identity{Product: "ollama", Version: versions[min(rng.IntN(len(versions)), rng.IntN(len(versions)))], Confidence: 0.98}
		r.Powers = finding.Powers{Hello: finding.Proven, Read: finding.Proven, Infer: finding.Reachable, Manage: finding.Reachable, Account: finding.Unknown}
		if r.Outcome != finding.Open {
			r.Powers = finding.Powers{Hello: finding.Proven, Read: finding.Denied, Infer: finding.Denied, Manage: finding.Denied}
			if r.Outcome == finding.Guarded && rng.IntN(3) == 0 {
				r.Findings = []finding.Finding{cleartextFinding}
			}
		} else {
			need := int64(0)
			for range 1 + rng.IntN(4) {
				m := catalogue[min(rng.IntN(len(catalogue)), rng.IntN(len(catalogue)))]
				need = max(need, m.bytes*12/10)
				r.Models = append(r.Models, finding.Model{
					Name: m.name, Digest: strings.Repeat("ab", 32), SizeBytes: m.bytes,
					ParameterSize: m.parameters, Quantization: m.quantization, Family: m.family, Capabilities: []string{"completion"},
				})
			}
			r.Hardware = &finding.Hardware{Class: string(ollama.ClassFor(need)), MinMemoryBytes: need, Basis: "its largest model on disk"}
			if rng.IntN(10) == 0 {
				r.Running = []finding.Running{{Name: r.Models[0].Name, SizeBytes: need, VRAMBytes: need}}
			}
			tags := fmt.Sprintf(`GET /api/tags -> 200 {"models":[{"name":%q,"size":%d`, r.Models[0].Name, r.Models[0].SizeBytes)
			door := openFinding
			door.Evidence = []string{"GET / -> 200 Ollama is running", fmt.Sprintf(`GET /api/version -> 200 {"version":%q}`, r.Identity.Version), tags}
			door.Remedy += " Then look again: gatehouse scan --prove " + r.Address + ":11434"
			r.Findings = []finding.Finding{door, cleartextFinding}
			if r.Identity.Version < "0.17" {
				r.Findings = append(r.Findings, outdatedFinding)
			}
			if rng.IntN(4) == 0 {
				r.Powers.Manage = finding.Proven
				r.Findings = append(r.Findings, manageFinding)
			}
			if rng.IntN(12) == 0 {
				r.TLS = &evidence.TLS{Version: "TLS 1.3", Names: []string{fmt.Sprintf("ai%d.example.net", i)}}
			}
		}
		records = append(records, r)
	}
	for i := range records {
		tally.Add(&records[i])
	}
	return records, tally
}

// whole is a report with all that one can have, of n places.
func whole(n int) report.Data {
	records, tally := census(n)
	sum := account(records)
	sum.Wave, sum.Scope = "20260412T060000Z-k3", "census"
	sum.Started = time.Date(2026, 4, 12, 6, 0, 0, 0, time.UTC)
	sum.Ended = sum.Started.Add(3 * time.Hour)
	d := report.Data{
		Title: "Open Ollama servers, April 2026", Version: "1.2.3", Summary: sum, Tally: tally, Hosts: report.Records(records),
		Changes: &report.Changes{
			Since: time.Date(2026, 1, 11, 0, 0, 0, 0, time.UTC), New: 9120, Gone: 2210, Fixed: 1480, Reopened: 96, Moved: 412, Changed: 3055, NotSeen: 870,
		},
		Active: &report.Share{Part: tally.Open / 10, Whole: tally.Open, Method: "a model loaded and its expiry moving, over 3 looks"},
		Method: []string{
			"Every address that an index of port 11434 named was asked four reads, once, in a window of three hours.",
			"One server is one address and port.",
		},
		Sources: []report.Source{{
			Name: "Country by registry", Date: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC), Attribution: "Public domain (CC0).",
			Warning: "Its makers warn that an address may be used in another country than it is registered in.",
		}, {Name: "Networks", Date: time.Date(2026, 4, 3, 0, 0, 0, 0, time.UTC), Attribution: "By its makers, CC BY 4.0."}},
	}
	for i, open := range []uint64{1139, 2600, 5900, 9800, 14100, 19600} {
		d.Trend = append(d.Trend, report.Point{Date: time.Date(2025, time.Month(9+i), 10, 0, 0, 0, 0, time.UTC), Tally: wave.Tally{Open: open}})
	}
	d.Trend = append(d.Trend, report.Point{Date: sum.Started, Tally: tally})
	return d
}
