package report

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/wave"
)

// Anonymise returns hosts as they may be published. An address becomes its /24
// or /48 with a keyed hash, which tells hosts of one network apart and says
// nothing to whoever does not hold the key. Of what a host said only what says
// nothing about whose it is stays: versions and sizes in the usual forms, and
// the requests and status codes of the evidence. With the same key a host has
// the same hash in every report.
func Anonymise(hosts Hosts, key []byte) Hosts {
	return func(yield func(wave.Record, error) bool) {
		for r, err := range hosts {
			if err == nil {
				r = anonymous(&r, key)
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// tilde stands between network and hash in an anonymous address, as in
// 203.0.113.0/24~0f1e2d3c4b5a6978.
const tilde = "~"

// pseudonym takes an anonymous address apart.
func pseudonym(address string) (network, hash string, ok bool) {
	return strings.Cut(address, tilde)
}

func anonymousAddress(r *wave.Record, key []byte) string {
	network := "?"
	text := r.Address
	if addr, err := netip.ParseAddr(r.Address); err == nil {
		addr = addr.Unmap().WithZone("")
		bits := 24
		if addr.Is6() {
			bits = 48
		}
		prefix, _ := addr.Prefix(bits) // bits is within what the address has
		network, text = prefix.String(), addr.String()
	}
	mac := hmac.New(sha256.New, key)
	// Several doors of one address are told apart too.
	mac.Write([]byte(strings.Join([]string{text, r.Name, r.Path}, "\x00")))
	return network + tilde + hex.EncodeToString(mac.Sum(nil)[:8])
}

func anonymous(r *wave.Record, key []byte) wave.Record {
	a := wave.Record{
		Wave:       r.Wave,
		Address:    anonymousAddress(r, key),
		Port:       r.Port,
		ObservedAt: r.ObservedAt.UTC().Truncate(24 * time.Hour),
		Owner: owner.Owner{
			Country: usual(country, r.Owner.Country), EU: r.Owner.EU,
			ASN: r.Owner.ASN, Network: r.Owner.Network, Provider: r.Owner.Provider,
		},
	}
	a.Outcome, a.Powers = r.Outcome, r.Powers
	a.Identity = finding.Identity{
		Product:    usual(word, r.Identity.Product),
		Version:    usual(release, r.Identity.Version),
		Confidence: r.Identity.Confidence,
	}
	if r.TLS != nil {
		a.TLS = &evidence.TLS{Version: usual(word, strings.ReplaceAll(r.TLS.Version, " ", "-"))}
	}
	for _, m := range r.Models {
		a.Models = append(a.Models, anonymousModel(m))
	}
	for _, m := range r.Running {
		a.Running = append(a.Running, finding.Running{SizeBytes: m.SizeBytes, VRAMBytes: m.VRAMBytes})
	}
	if r.Hardware != nil {
		a.Hardware = &finding.Hardware{Class: usual(class, r.Hardware.Class), MinMemoryBytes: r.Hardware.MinMemoryBytes}
	}
	// A name may turn up where nobody thinks of it, such as in the name of a
	// network that is called after its one host.
	secrets := secrets(r)
	for _, f := range r.Findings {
		a.Findings = append(a.Findings, anonymousFinding(f, secrets))
	}
	for _, s := range []*string{&a.Owner.Network, &a.Owner.Provider} {
		*s = short(without(*s, secrets), 200)
	}
	return a
}

// The forms in which a text says nothing about whose it is.
var (
	country  = regexp.MustCompile(`^[A-Z]{2}$`)
	word     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,15}(\.cpp|[ -]1\.[0-3])?$`)
	release  = regexp.MustCompile(`^v?[0-9]{1,3}\.[0-9]{1,4}\.[0-9]{1,4}(-rc[0-9]{0,2})?$`)
	class    = regexp.MustCompile(`^[A-Za-z][A-Za-z -]{0,20}( ?≤?[0-9]{1,4} GB)?( \([A-Z0-9/]{1,12}\))?$`)
	family   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,15}$`)
	amount   = regexp.MustCompile(`^[0-9]{1,5}(\.[0-9]{1,3})?[KMBT]?$`)
	quantity = regexp.MustCompile(`^(I?Q[0-9]_[A-Z0-9_]{1,6}|F16|F32|BF16|MXFP4)$`)
	asked    = regexp.MustCompile(`^(GET|POST|DELETE|HEAD|PUT|OPTIONS) \S*?(/(?:api|v1)/[a-z/-]{1,30}[a-z]|/) (?:.*?)?-> ([0-9]{3})\b`)
	id       = regexp.MustCompile(`^[a-z]{1,20}(-[a-z]{1,20}){0,4}$`)
	vector   = regexp.MustCompile(`^CVSS:[34]\.[01](/[A-Z]{1,3}:[A-Z]){1,32}$`)
	advisory = regexp.MustCompile(`^(CVE|GHSA|GO)-[0-9A-Za-z-]{4,30}$`)
)

func usual(form *regexp.Regexp, s string) string {
	if form.MatchString(s) {
		return s
	}
	return ""
}

// anonymousModel names a model by its kind: its own name may be a company's.
func anonymousModel(m finding.Model) finding.Model {
	kind := []string{}
	for _, s := range []string{usual(family, m.Family), usual(amount, m.ParameterSize)} {
		if s != "" {
			kind = append(kind, s)
		}
	}
	a := finding.Model{
		Name: strings.Join(kind, " "), SizeBytes: m.SizeBytes, ContextLength: m.ContextLength,
		Family: usual(family, m.Family), ParameterSize: usual(amount, m.ParameterSize), Quantization: usual(quantity, m.Quantization),
	}
	if a.Name == "" {
		a.Name = "a model"
	}
	for _, c := range m.Capabilities {
		if slices.Contains([]string{"completion", "tools", "vision", "embedding", "insert", "thinking"}, c) {
			a.Capabilities = append(a.Capabilities, c)
		}
	}
	return a
}

// anonymousFinding keeps what is ours: the rule, and of the evidence which
// request had which status. The last sentence of a remedy names the host.
func anonymousFinding(f finding.Finding, secrets []string) finding.Finding {
	a := finding.Finding{ID: usual(id, f.ID), Severity: f.Severity, Score: f.Score, Vector: usual(vector, f.Vector)}
	a.Title = cmp.Or(short(without(f.Title, secrets), 200), a.ID)
	remedy, _, _ := strings.Cut(f.Remedy, " Then look again")
	a.Remedy = short(without(remedy, secrets), 1000)
	for _, cve := range f.CVEs {
		if s := usual(advisory, cve); s != "" {
			a.CVEs = append(a.CVEs, s)
		}
	}
	for _, line := range f.Evidence {
		if m := asked.FindStringSubmatch(line); m != nil {
			status, _ := strconv.Atoi(m[3]) // three digits
			a.Evidence = append(a.Evidence, m[1]+" "+m[2]+" -> "+strconv.Itoa(status))
		}
	}
	return a
}

// secrets are the texts of a record that name its host.
func secrets(r *wave.Record) []string {
	list := []string{r.Address, r.Name, r.Target, r.Owner.Name, r.Owner.Contact}
	if r.TLS != nil {
		list = append(append(list, r.TLS.Names...), r.TLS.Subject)
	}
	for _, c := range r.Owner.Claims {
		if c.What != "country" && c.What != "network" && c.What != "provider" && c.What != "asn" {
			list = append(list, c.Value)
		}
	}
	return slices.DeleteFunc(list, func(s string) bool { return len(s) < 4 })
}

// without is s, or nothing when a secret is in it.
func without(s string, secrets []string) string {
	low := strings.ToLower(s)
	for _, secret := range secrets {
		if strings.Contains(low, strings.ToLower(secret)) {
			return ""
		}
	}
	return s
}
