package wave_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/go-json-experiment/json"

	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/wave"
)

func record(o finding.Outcome, country string, models ...finding.Model) *wave.Record {
	return &wave.Record{
		Verdict: finding.Verdict{Outcome: o, Models: models},
		Owner:   owner.Owner{Country: country},
	}
}

func TestTally(t *testing.T) {
	var tally wave.Tally
	r := record(finding.Open, "DE",
		finding.Model{Name: "llama3.2:latest", Family: "llama", ParameterSize: "3.2B", Quantization: "Q4_K_M", Capabilities: []string{"completion", "tools"}},
		finding.Model{Name: "llama3:70b", Family: "llama", ParameterSize: "70.6B", Quantization: "q4_0", Capabilities: []string{"completion"}},
		finding.Model{Name: "gpt-oss:120b-cloud", RemoteHost: "https://ollama.com", ParameterSize: "116.8B", Quantization: "MXFP4"},
	)
	r.Owner = owner.Owner{Country: "DE", EU: true, ASN: 24940, Network: "Hetzner Online", Provider: "Hetzner"}
	r.Identity.Version = "0.34.4"
	r.Running = []finding.Running{{Name: "llama3.2:latest"}}
	r.Hardware = &finding.Hardware{Class: "consumer ≤8 GB"}
	r.Findings = []finding.Finding{{ID: "open-api"}, {ID: "open-api"}, {ID: "cve"}}
	tally.Add(r)
	// It says the same name twice and nothing that can be understood.
	tally.Add(record(finding.Open, "US", finding.Model{Name: "x", ParameterSize: "huge"}, finding.Model{Name: "x", Quantization: "F16"}))
	tally.Add(record(finding.Open, ""))
	tally.Add(record(finding.Honeypot, "CN", finding.Model{Name: "llama3.2:latest"}))
	tally.Add(record(finding.Guarded, "FR"))
	tally.Add(record(finding.Silent, "FR"))

	count := func(kv ...any) map[string]uint64 {
		m := make(map[string]uint64)
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = uint64(kv[i+1].(int))
		}
		return m
	}
	want := wave.Tally{
		Hosts:    5,
		Outcomes: map[finding.Outcome]uint64{finding.Open: 3, finding.Honeypot: 1, finding.Guarded: 1, finding.Silent: 1},
		Open:     3, EU: 1, Placed: 2, Loaded: 1, Detailed: 1, Sized: 1, Listed: 4, Remote: 1,
		Countries:     count("DE", 1, "US", 1, "unknown", 1),
		Providers:     count("Hetzner", 1, "unknown", 2),
		Networks:      count("AS24940 Hetzner Online", 1, "unknown", 2),
		Models:        count("llama3.2:latest", 1, "llama3:70b", 1, "gpt-oss:120b-cloud", 1, "x", 1),
		Families:      count("llama", 1),
		Parameters:    count("3-8B", 1, "35-80B", 1, "unknown", 2),
		Quantizations: count("Q4_K_M", 1, "Q4_0", 1, "F16", 1, "unknown", 1),
		Bits:          count("4-bit", 2, "16-bit", 1, "unknown", 1),
		Capabilities:  count("completion", 1, "tools", 1),
		Hardware:      count("consumer ≤8 GB", 1),
		Versions:      count("0.34.4", 1, "unknown", 2),
		Findings:      count("open-api", 1, "cve", 1),
	}
	marks := tally.Marks
	tally.Marks = nil // TestCompareSame holds what they are for
	if sum(marks) == 0 {
		t.Error("no marks are counted")
	}
	if !reflect.DeepEqual(tally, want) {
		t.Errorf("got  %+v\nwant %+v", tally, want)
	}
	if share, ok := tally.EUShare(); !ok || share != 0.5 {
		t.Errorf("EU share %v %v", share, ok)
	}
	ages := tally.Ages(time.Date(2026, 10, 9, 0, 0, 0, 0, time.UTC))
	if ages.Known != 1 || ages.Unknown != 2 || ages.Current != 0 || ages.MedianReleases != 2 || ages.MedianDays != 30 ||
		ages.Newest.String() != "0.35.1" || ages.Within[0].Servers != 1 {
		t.Errorf("%+v", ages)
	}
}

// TestPublished has the counts of September 2025 and April 2026.
func TestPublished(t *testing.T) {
	before := &wave.Tally{Open: 1139}
	after := &wave.Tally{Open: 25_000, Placed: 25_000, EU: 7_600, Countries: map[string]uint64{"CN": 6_000, "US": 5_100, "DE": 3_550, "FR": 900}}
	if x, ok := after.Growth(before); !ok || fmt.Sprintf("×%.0f", x) != "×22" {
		t.Errorf("growth %v", x)
	}
	if share, _ := after.EUShare(); fmt.Sprintf("%.0f %%", 100*share) != "30 %" {
		t.Errorf("EU %v", share)
	}
	if de := wave.Ranked(after.Countries, after.Placed)[2]; de.Key != "DE" || de.Rank != 3 || de.Share != 0.142 {
		t.Errorf("%+v", de)
	}
	if x, ok := before.Growth(&wave.Tally{}); ok {
		t.Errorf("grew from nothing by %v", x)
	}
}

func TestRanked(t *testing.T) {
	got := wave.Ranked(map[string]uint64{"c": 5, "a": 5, "b": 9, "d": 1}, 20)
	want := []wave.Share{{"b", 9, 1, 0.45}, {"a", 5, 2, 0.25}, {"c", 5, 2, 0.25}, {"d", 1, 4, 0.05}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := wave.Ranked(map[string]uint64{"a": 1}, 0); got[0].Share != 0 {
		t.Errorf("a share of nothing: %v", got)
	}
}

func TestParameterClass(t *testing.T) {
	for size, want := range map[string]string{
		"134.52M": "<1B", "999M": "<1B", "1B": "1-3B", "2.9B": "1-3B", "3B": "3-8B", "7.6B": "3-8B", "8.0B": "8-15B",
		"14.8B": "8-15B", "15B": "15-35B", "32.8B": "15-35B", "35B": "35-80B", "70.6B": "35-80B", "8x7B": "35-80B",
		"80B": "80B+", "1T": "80B+", "": "unknown", "-3B": "unknown", "1e9": "unknown",
	} {
		got := wave.ParameterClass(size)
		if got != want || !slices.Contains(wave.ParameterClasses, got) {
			t.Errorf("%q: %s, want %s", size, got, want)
		}
	}
}

// anyRecord is a record such as hosts and their owners may make up.
func anyRecord(r *rand.Rand) *wave.Record {
	names := []string{"a", "b", "ü", "\xff", "\xfe", "", strings.Repeat("n", 300), "\x00", "\u2028"}
	pick := func() string { return names[r.IntN(len(names))] }
	rec := record(finding.Outcomes[r.IntN(len(finding.Outcomes))], pick())
	if r.IntN(2) == 0 {
		rec.Outcome = finding.Open
	}
	for range r.IntN(4) {
		rec.Models = append(rec.Models, finding.Model{
			Name: pick(), Family: pick(), ParameterSize: fmt.Sprint(r.IntN(99), "B"), Quantization: pick(),
			RemoteHost: names[5-r.IntN(2)*5], Capabilities: []string{pick(), pick()},
		})
	}
	rec.Owner.ASN, rec.Owner.EU, rec.Owner.Provider = r.Uint32N(3), r.IntN(2) == 0, pick()
	rec.Identity.Version = pick()
	rec.Findings = []finding.Finding{{ID: pick()}, {ID: pick()}}
	if r.IntN(2) == 0 {
		rec.Hardware = &finding.Hardware{Class: pick()}
	}
	return rec
}

// However the records are cut in two, and whether the parts lay in a store
// between, their tallies add up to that of the whole.
func TestTallyAddsUp(t *testing.T) {
	holds := func(seed uint64, cut uint8) bool {
		r := rand.New(rand.NewPCG(seed, 1))
		var whole, left, right wave.Tally
		for i := range 60 {
			rec := anyRecord(r)
			whole.Add(rec)
			if i < int(cut)%61 {
				left.Add(rec)
			} else {
				right.Add(rec)
			}
		}
		text, err := json.Marshal(&right)
		if err != nil {
			t.Log(err)
			return false
		}
		var read wave.Tally
		if err := json.Unmarshal(text, &read); err != nil {
			t.Log(err)
			return false
		}
		left.Merge(&read)
		a, err1 := json.Marshal(&left, json.Deterministic(true))
		b, err2 := json.Marshal(&whole, json.Deterministic(true))
		if err1 != nil || err2 != nil || string(a) != string(b) {
			t.Logf("%s\n%s %v %v", a, b, err1, err2)
			return false
		}
		return true
	}
	if err := quick.Check(holds, &quick.Config{MaxCount: 300}); err != nil {
		t.Error(err)
	}
}

func sum(m map[string]uint64) (n uint64) {
	for _, c := range m {
		n += c
	}
	return n
}

// TestTallyFlooded is of hosts that make up 4,000 names each, before and between
// the honest ones: the tally stays small, names what is common, and loses no count.
func TestTallyFlooded(t *testing.T) {
	var tallies [2]wave.Tally
	var listed uint64
	made := 0
	flood := func(to *wave.Tally, hosts int) {
		for range hosts {
			var models []finding.Model
			for range 4000 {
				models = append(models, finding.Model{Name: fmt.Sprint("made-up-", made), Quantization: fmt.Sprint(made)})
				made++
			}
			models = append(models, finding.Model{Name: strings.Repeat("x", 1<<20)})
			listed += uint64(len(models))
			to.Add(record(finding.Open, "", models...))
		}
	}
	for i := range tallies {
		flood(&tallies[i], 10)
		for range 500 {
			tallies[i].Add(record(finding.Open, "DE", finding.Model{Name: "llama3.2:latest"}))
			listed++
		}
		flood(&tallies[i], 10)
	}
	tallies[0].Merge(&tallies[1])
	tally := &tallies[0]
	if n := len(tally.Models); n > 50_000 {
		t.Errorf("%d names are kept", n)
	}
	if got := sum(tally.Models) + tally.Rest["models"]; got != listed {
		t.Errorf("%d listings, want %d", got, listed)
	}
	if got := sum(tally.Quantizations) + tally.Rest["quantizations"]; got != tally.Listed || tally.Listed != listed {
		t.Errorf("%d quantisations of %d models", got, tally.Listed)
	}
	if first := wave.Ranked(tally.Models, tally.Open)[0]; first.Key != "llama3.2:latest" || first.Count != 1000 {
		t.Errorf("the most common is %+v", first)
	}
	for name := range maps.Keys(tally.Models) {
		if len(name) > 256 {
			t.Errorf("a name of %d bytes", len(name))
		}
	}
}
