package finding

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	gocvss31 "github.com/pandatix/go-cvss/31"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama"
)

// rule is what a finding says wherever it is found.
type rule struct {
	id, title, vector string
	remedy            string
}

// The rules. Vectors are CVSS 3.1 base vectors; the score comes from them.
// That of ollama-open is Tenable's for an Ollama API without authentication.
var (
	ruleOpen = rule{
		"ollama-open", "Ollama answers strangers",
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H",
		"Bind Ollama to loopback (OLLAMA_HOST=127.0.0.1, then restart it) and let callers in by a door that asks for a key: gatehouse gate. Then look again: gatehouse scan --prove %s",
	}
	ruleReadOpen = rule{
		"ollama-read-open", "Strangers can list the models; a lock stands before the rest",
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:L/I:N/A:N",
		"Put the lock before GET requests too, not only before POST and DELETE. Then look again: gatehouse scan --prove %s",
	}
	ruleManage = rule{
		"ollama-manage-open", "Strangers can pull, create and delete models",
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:L/I:H/A:H",
		"Nobody needs these routes from outside: gatehouse gate gives them to keys that name manage. Then look again: gatehouse scan --prove %s",
	}
	ruleInfer = rule{
		"ollama-infer-open", "Strangers can compute on this machine",
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:L/A:H",
		"Ask for a key before /api/generate, /api/chat, /api/embed and /v1: gatehouse gate does. Then look again: gatehouse scan --prove %s",
	}
	rulePrompt = rule{
		"ollama-prompt-readable", "Strangers can read a model's system prompt",
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:L/I:N/A:N",
		"Ask for credentials before POST /api/show, and take what is secret out of system prompts. Then look again: gatehouse scan --details %s",
	}
	ruleAccount = rule{
		"ollama-account-usable", "Strangers can use cloud models on this server's account",
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:L/I:L/A:L",
		"Sign the server out (ollama signout) or set OLLAMA_NO_CLOUD=1, and close the API. Then look again: gatehouse scan %s",
	}
	ruleRebind = rule{
		"ollama-rebinding", "No check of the Host header: any web page can reach the API by DNS rebinding",
		"CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:C/C:H/I:H/A:H",
		"Ollama checks Host only when bound to loopback: set OLLAMA_HOST=127.0.0.1, and do not rewrite Host in a proxy without a lock. Then look again: gatehouse scan --prove %s",
	}
	ruleOrigin = rule{
		"ollama-any-origin", "Any web page may call the API from a visitor's browser",
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:U/C:H/I:H/A:H",
		"Take the * out of OLLAMA_ORIGINS and name the pages that need it. Then look again: gatehouse scan --prove %s",
	}
	ruleCleartext = rule{
		"ollama-cleartext", "Prompts, answers and credentials cross the network in the clear",
		"CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:N/A:N",
		"Serve TLS in front of Ollama, and only there. Then look again: gatehouse scan %s",
	}
	ruleOutdated = rule{
		"ollama-outdated", "This release has known vulnerabilities",
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:H",
		"Update Ollama. Then look again: gatehouse scan %s",
	}
	ruleLarge = rule{
		"ollama-large-hardware", "The hardware behind this server is worth stealing time on",
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:L",
		"Close this one first: what it costs to run is what a thief saves. Then look again: gatehouse scan --prove %s",
	}
)

// findings says what is wrong with a host that was judged to be v.
func (r Rules) findings(h *evidence.Host, v *Verdict) (list []Finding) {
	add := func(r rule, cves []string, evidence ...string) {
		list = append(list, r.found(h, cves, evidence))
	}
	see := func(asks ...evidence.Ask) (lines []string) {
		for _, ask := range asks {
			if x := h.Find(ask); x != nil && x.Status != 0 {
				lines = append(lines, line(x, quote(x.Body)))
			}
		}
		return lines
	}

	if v.Outcome == Guarded && h.TLS == nil && v.Identity.Product == "ollama" && asksForSecret(h) {
		add(ruleCleartext, nil, see(evidence.Tags)...)
	}
	if v.Outcome != Open {
		return list
	}

	if v.Powers.Infer == Denied && v.Powers.Manage == Denied {
		add(ruleReadOpen, nil, see(evidence.Tags)...)
	} else {
		add(ruleOpen, []string{"CVE-2025-63389"}, see(evidence.Root, evidence.Version, evidence.Tags)...)
	}
	if v.Powers.Manage == Proven {
		add(ruleManage, nil, see(evidence.Pull, evidence.Create, evidence.Delete)...)
	}
	if v.Powers.Infer == Proven {
		add(ruleInfer, nil, see(evidence.ProveInfer, evidence.ProveChat)...)
	}
	if lines := prompts(v.Models); len(lines) > 0 {
		add(rulePrompt, nil, lines...)
	}
	if lines := remotes(v.Models); len(lines) > 0 && v.Powers.Infer != Denied {
		add(ruleAccount, nil, lines...)
	}
	if x := h.Find(evidence.Rebind); x != nil && x.Status == 200 && isVersion(x.Body) {
		add(ruleRebind, nil, line(x, "with Host: gatehouse-probe.invalid, "+quote(x.Body)))
	}
	if x := h.Find(evidence.Origin); x != nil && x.Status == 200 {
		if allowed := x.Get("Access-Control-Allow-Origin"); allowed == "*" || strings.HasSuffix(allowed, ".invalid") {
			add(ruleOrigin, nil, line(x, "with Origin: https://gatehouse-probe.invalid, Access-Control-Allow-Origin: "+quote([]byte(allowed))))
		}
	}
	if h.TLS == nil {
		add(ruleCleartext, nil, see(evidence.Version)...)
	}
	if f, ok := r.outdated(h, v); ok {
		list = append(list, f)
	}
	if v.Hardware != nil && isLarge(v.Hardware) {
		add(ruleLarge, nil, v.Hardware.Class+": "+v.Hardware.Basis)
	}
	slices.SortStableFunc(list, func(a, b Finding) int {
		switch {
		case a.Score > b.Score:
			return -1
		case a.Score < b.Score:
			return 1
		}
		return 0
	})
	return list
}

// isLarge reports whether one consumer's card would not do.
func isLarge(hw *Hardware) bool {
	switch ollama.HardwareClass(hw.Class) {
	case ollama.Workstation48, ollama.DataCentre80, ollama.DataCentre141, ollama.SeveralGPUs:
		return true
	}
	return false
}

func isVersion(body []byte) bool {
	_, err := ollama.ParseVersion(body)
	return err == nil
}

// asksForSecret reports whether the lock wants something that can be
// overheard, and not a source address.
func asksForSecret(h *evidence.Host) bool {
	x := h.Find(evidence.Tags)
	return x != nil && (x.Status == 401 || x.Status == 407)
}

func prompts(models []Model) (lines []string) {
	for _, m := range models {
		if m.SystemPromptBytes > 0 {
			lines = append(lines, fmt.Sprintf("POST /api/show %q -> 200, a system prompt of %d bytes (not kept)", m.Name, m.SystemPromptBytes))
		}
	}
	return lines
}

func remotes(models []Model) (lines []string) {
	for _, m := range models {
		if m.RemoteHost != "" {
			lines = append(lines, fmt.Sprintf("GET /api/tags -> 200, %q runs at %q", m.Name, m.RemoteHost))
		}
	}
	return lines
}

// outdated says which vulnerabilities the release is certain to have. The ones
// with no fixed version on record are told apart in the evidence, for such a
// gap is in the record as often as in the software.
func (r Rules) outdated(h *evidence.Host, v *Verdict) (Finding, bool) {
	if r.Advisories == nil || v.Identity.Version == "" {
		return Finding{}, false
	}
	fixed, open := r.Advisories.For(v.Identity.Version)
	if len(fixed) == 0 {
		return Finding{}, false
	}
	var cves, lines []string
	for _, a := range fixed {
		cves = append(cves, cmpOr(a.CVE(), a.ID))
		lines = append(lines, fmt.Sprintf("%s, fixed in %s: %s", cmpOr(a.CVE(), a.ID), a.Fixed, a.Summary))
	}
	if x := h.Find(evidence.Version); x != nil {
		lines = append([]string{line(x, quote(x.Body))}, lines...)
	}
	if len(open) > 0 {
		lines = append(lines, fmt.Sprintf("and %d with no fixed version on record", len(open)))
	}
	lines = append(lines, "advisories of "+r.Advisories.Date.Format(time.DateOnly))
	return ruleOutdated.found(h, cves, lines), true
}

// found is the finding that rule makes on h.
func (r rule) found(h *evidence.Host, cves, lines []string) Finding {
	f := Finding{
		ID: r.id, Title: r.title, Vector: r.vector, CVEs: cves, Evidence: lines,
		Remedy: fmt.Sprintf(r.remedy, target(h)),
	}
	f.Score, f.Severity = r.rated()
	return f
}

// rated is the base score of the rule's vector, and the severity that it counts
// as. The vectors are constants, so that each is worked out once; a test parses
// them.
func (r rule) rated() (float64, Severity) {
	if known, ok := ratings.Load(r.vector); ok {
		is := known.(rating)
		return is.score, is.severity
	}
	var is rating
	if cvss, err := gocvss31.ParseVector(r.vector); err == nil {
		is.score = cvss.BaseScore()
		name, _ := gocvss31.Rating(is.score)
		is.severity = Severity(strings.ToLower(name))
	}
	ratings.Store(r.vector, is)
	return is.score, is.severity
}

type rating struct {
	score    float64
	severity Severity
}

var ratings sync.Map // of rating, by vector

// target is how the host is named to look at it again. It is built from what
// the user asked for, never from what the host said.
func target(h *evidence.Host) string {
	scheme := "http"
	if h.TLS != nil {
		scheme = "https"
	}
	host := h.Name
	if host == "" {
		host = h.Address.String()
		if h.Address.Is6() {
			host = "[" + host + "]"
		}
	}
	if h.Path != "" || h.TLS != nil {
		return fmt.Sprintf("%s://%s:%d%s", scheme, host, h.Port, h.Path)
	}
	return fmt.Sprintf("%s:%d", host, h.Port)
}
