package report

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/wave"
)

// cardModels is how many models, loaded models and signals a card lists each.
const cardModels = 12

// verdicts say in a sentence what each outcome means.
var verdicts = map[finding.Outcome]string{
	finding.Open:      "An Ollama that answers strangers.",
	finding.Guarded:   "It asks for credentials.",
	finding.Lookalike: "It speaks Ollama's API and is another product.",
	finding.Honeypot:  "It contradicts itself: probably a honeypot.",
	finding.Broken:    "What it says breaks the rules: hostile or malformed.",
	finding.Other:     "The port is open; it is not Ollama.",
	finding.Silent:    "Nothing came back in time.",
	finding.Refused:   "The connection was rejected.",
}

// card shows everything worth knowing of one host.
func (p *page) card(r *wave.Record) {
	p.banner(r)
	if r.Identity.Product != "" {
		text := strings.TrimSpace(r.Identity.Product + " " + r.Identity.Version)
		p.entry("Product", fit(short(text, 200), p.width/2)+fmt.Sprintf(" (confidence %.2f)", r.Identity.Confidence))
	}
	if r.Reason != "" {
		p.entry("Because", r.Reason)
	}
	if !r.ObservedAt.IsZero() {
		p.entry("Seen", r.ObservedAt.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	if outcomeRank(r.Outcome) < outcomeRank(finding.Silent) {
		p.entry("Transport", transport(r.TLS))
	}
	if h := r.Hardware; h != nil {
		text := h.Class
		if h.MinMemoryBytes > 0 {
			text += ", at least " + size(h.MinMemoryBytes) + " of memory"
		}
		if h.Basis != "" {
			text += ": " + h.Basis
		}
		p.entry("Hardware", text)
	}
	if text := ownerOf(&r.Owner); text != "" {
		p.entry("Owner", text)
	}
	if outcomeRank(r.Outcome) < outcomeRank(finding.Broken) {
		p.powers(r.Powers)
	}
	p.models(r.Models)
	p.running(r.Running)
	p.signals(r.Identity.Signals)
	p.wrong(r.Findings)
}

// banner is the verdict in a box.
func (p *page) banner(r *wave.Record) {
	inner := p.width - 6
	title := fit(strings.ToUpper(Clean(string(r.Outcome)))+"  "+Clean(hostPort(r)+r.Path), inner)
	if r.Name != "" && r.Name != r.Address {
		title = fit(title+"  ("+Clean(r.Address)+")", inner)
	}
	lines := []string{p.paint(outcomeStyle(r.Outcome).Bold(true), title)}
	if v := verdicts[r.Outcome]; v != "" {
		lines = append(lines, fit(v, inner))
	}
	p.line()
	if inner < 20 { // no room for a box
		for _, l := range lines {
			p.line(l)
		}
		return
	}
	box := lipgloss.NewStyle().Border(lipgloss.RoundedBorder()).Padding(0, 1).Width(p.width - 2)
	if p.color {
		box = box.BorderForeground(outcomeStyle(r.Outcome).GetForeground())
	}
	for l := range strings.SplitSeq(box.Render(strings.Join(lines, "\n")), "\n") {
		p.line(" ", l)
	}
	p.line()
}

// entry writes a label and what there is to say about it.
func (p *page) entry(label, text string) {
	p.para(" "+p.paint(faint, pad(label, 11, false)), normal, text)
}

func transport(t *evidence.TLS) string {
	if t == nil {
		return "cleartext HTTP"
	}
	parts := []string{t.Version}
	if len(t.Names) > 0 {
		parts = append(parts, "for "+strings.Join(t.Names[:min(len(t.Names), 4)], ", "))
	}
	if t.Issuer != "" {
		parts = append(parts, "issued by "+t.Issuer)
	}
	if !t.NotAfter.IsZero() {
		parts = append(parts, "valid to "+t.NotAfter.UTC().Format(time.DateOnly))
	}
	if t.Invalid != "" {
		parts = append(parts, "a browser would object: "+t.Invalid)
	}
	return strings.Join(parts, ", ")
}

// owner joins what is known of who runs the host, "" when nobody looked.
func ownerOf(o *owner.Owner) string {
	var parts []string
	for _, s := range []string{o.Name, o.Provider, o.Network, o.Country, o.Contact} {
		if s != "" && !slices.Contains(parts, s) {
			parts = append(parts, s)
		}
	}
	if o.ASN != 0 {
		parts = append(parts, "AS"+strconv.FormatUint(uint64(o.ASN), 10))
	}
	return strings.Join(parts, ", ")
}

func (p *page) powers(powers finding.Powers) {
	p.heading("What a stranger may do")
	for _, power := range []struct {
		state      finding.State
		name, what string
	}{
		{powers.Hello, "hello", "see that it is there, and its version"},
		{powers.Read, "read", "list its models and what is in them"},
		{powers.Infer, "infer", "compute with its models, load and unload them"},
		{powers.Manage, "manage", "pull, create, overwrite and delete models"},
		{powers.Account, "account", "act as its ollama.com account"},
	} {
		mark, style := "?", faint
		switch power.state {
		case finding.Proven:
			mark, style = "●", alarm
		case finding.Reachable:
			mark, style = "○", normal.Foreground(lipgloss.Yellow)
		case finding.Denied:
			mark, style = "-", normal.Foreground(lipgloss.Green)
		default:
			power.state = finding.Unknown
		}
		p.line("   ", p.paint(style, mark+" "+pad(power.name, 9, false)+pad(string(power.state), 10, false)), power.what)
	}
}

func (p *page) models(models []finding.Model) {
	if len(models) == 0 {
		return
	}
	models = slices.Clone(models)
	slices.SortStableFunc(models, func(a, b finding.Model) int {
		return cmp.Compare(b.SizeBytes, a.SizeBytes)
	})
	total := 0.0
	for _, m := range models {
		total += float64(max(m.SizeBytes, 0))
	}
	p.heading("Models: " + count(uint64(len(models))) + ", " + size(int64(min(total, 1<<62))) + " on disk")
	name := min(max(p.width-46, 12), 48)
	longest := 0
	for _, m := range models[:min(len(models), cardModels)] {
		longest = max(longest, ansi.StringWidth(short(m.Name, 200)))
	}
	name = min(name, longest)
	for _, m := range models[:min(len(models), cardModels)] {
		var notes []string
		if m.RemoteHost != "" {
			notes = append(notes, "runs at "+short(m.RemoteHost, 100))
		}
		if m.SystemPromptBytes > 0 {
			notes = append(notes, fmt.Sprintf("system prompt of %d bytes", m.SystemPromptBytes))
		}
		for _, n := range append([]string{m.Family}, m.Capabilities...) {
			if n != "" {
				notes = append(notes, short(n, 100))
			}
		}
		p.line("   ", pad(p.paint(strong, fit(short(m.Name, 200), name)), name, false), gap,
			pad(size(m.SizeBytes), 7, true), gap,
			pad(fit(Clean(m.ParameterSize), 8), 8, true), gap,
			pad(fit(Clean(m.Quantization), 8), 8, false), gap,
			p.paint(faint, strings.Join(notes, ", ")))
	}
	p.more(len(models))
}

func (p *page) running(running []finding.Running) {
	if len(running) == 0 {
		return
	}
	p.heading("In memory: " + count(uint64(len(running))))
	for _, m := range running[:min(len(running), cardModels)] {
		text := size(m.SizeBytes) + ", " + size(m.VRAMBytes) + " of it on a GPU"
		if m.ExpiresAt != nil {
			text += ", until " + m.ExpiresAt.UTC().Format("2006-01-02 15:04 UTC")
		}
		p.line("   ", p.paint(strong, fit(short(m.Name, 200), max(p.width/2, 12))), gap, text)
	}
	p.more(len(running))
}

func (p *page) signals(signals []finding.Signal) {
	if len(signals) == 0 {
		return
	}
	p.heading("What that rests on")
	for _, s := range signals[:min(len(signals), cardModels)] {
		p.line("   ", fmt.Sprintf("%.2f  ", s.Weight), pad(fit(Clean(s.For), 12), 12, false), gap,
			pad(fit(Clean(s.Name), 20), 20, false), gap, p.paint(faint, short(s.Saw, 400)))
	}
	p.more(len(signals))
}

func (p *page) more(n int) {
	if n > cardModels {
		p.line("   ", p.paint(faint, "… "+count(uint64(n-cardModels))+" more: --format json"))
	}
}

func (p *page) wrong(findings []finding.Finding) {
	if len(findings) == 0 {
		return
	}
	findings = slices.Clone(findings)
	slices.SortStableFunc(findings, func(a, b finding.Finding) int {
		return severityRank(b.Severity) - severityRank(a.Severity)
	})
	p.heading("What is wrong, and what to do")
	for _, f := range findings {
		p.line()
		p.finding(f, "", f.Evidence, f.CVEs)
	}
}
