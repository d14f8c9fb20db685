// Package finding turns evidence into a verdict: what the host is, what it lets
// a stranger do, what it runs on, and what is wrong with that.
// Pure: it touches no network and no clock, so that new rules can judge old
// evidence.
package finding

import (
	"time"

	"gatehouse/internal/ollama"
)

// Outcome is what a place turned out to be.
type Outcome string

// The outcomes, from the worst to the least.
const (
	Open      Outcome = "open"      // an Ollama that answers strangers
	Guarded   Outcome = "guarded"   // asks for credentials
	Lookalike Outcome = "lookalike" // speaks the API, is another product
	Honeypot  Outcome = "honeypot"  // contradicts itself
	Broken    Outcome = "broken"    // hostile or malformed
	Other     Outcome = "other"     // the port is open, not Ollama
	Silent    Outcome = "silent"    // nothing came back in time
	Refused   Outcome = "refused"   // the connection was rejected
)

// Outcomes lists every outcome, from the worst to the least.
var Outcomes = []Outcome{Open, Guarded, Lookalike, Honeypot, Broken, Other, Silent, Refused}

// State is what is known of one power on one host.
type State string

// The states of a power.
const (
	Proven    State = "proven"    // the handler behind any lock answered
	Reachable State = "reachable" // nothing seen stands before it, not proven
	Denied    State = "denied"    // a lock answered
	Unknown   State = "unknown"   // not asked, or the answer says nothing
)

// Severity ranks findings, as CVSS 3.1 section 5 names the ranges.
type Severity string

// The severities, from the least.
const (
	None     Severity = "none"
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Verdict is all that is concluded from the evidence of one host. The JSON
// names are a contract with whoever reads the output.
type Verdict struct {
	Outcome  Outcome   `json:"outcome"`
	Reason   string    `json:"reason,omitzero"` // in a few words: why this outcome
	Identity Identity  `json:"identity"`
	Powers   Powers    `json:"powers"`
	Models   []Model   `json:"models"`
	Running  []Running `json:"running"`
	Hardware *Hardware `json:"hardware"` // nil when nothing shows it
	Findings []Finding `json:"findings"`
}

// Identity is which product answers, and what that rests on.
type Identity struct {
	Product    string   `json:"product"` // "ollama", "open-webui", "llama.cpp", …; "" when not known
	Version    string   `json:"version"`
	Confidence float64  `json:"confidence"` // 0 to 1
	Signals    []Signal `json:"signals"`
}

// Signal is one observation that speaks for a product, a lock or a honeypot.
type Signal struct {
	Name   string  `json:"name"`
	For    string  `json:"for"`    // a product, "guarded" or "honeypot"
	Weight float64 `json:"weight"` // 0 to 1; below 0.5 is weak
	Saw    string  `json:"saw"`    // the deciding bytes, shortened
}

// Powers is the state of each power.
type Powers struct {
	Hello   State `json:"hello"`
	Read    State `json:"read"`
	Infer   State `json:"infer"`
	Manage  State `json:"manage"`
	Account State `json:"account"`
}

// Of returns the state of one power.
func (p Powers) Of(power ollama.Power) State {
	switch power {
	case ollama.Hello:
		return p.Hello
	case ollama.Read:
		return p.Read
	case ollama.Infer:
		return p.Infer
	case ollama.Manage:
		return p.Manage
	case ollama.Account:
		return p.Account
	}
	return Unknown
}

// Model is one model on the server's disk.
type Model struct {
	Name          string     `json:"name"`
	Digest        string     `json:"digest"`
	SizeBytes     int64      `json:"size_bytes"`
	ParameterSize string     `json:"parameter_size"`
	Quantization  string     `json:"quantization"`
	Family        string     `json:"family"`
	ModifiedAt    *time.Time `json:"modified_at"`
	RemoteHost    string     `json:"remote_host"`

	// With details only.
	Capabilities      []string `json:"capabilities,omitzero"`
	ContextLength     int64    `json:"context_length,omitzero"`
	SystemPromptBytes int      `json:"system_prompt_bytes,omitzero"`
}

// Running is one model in the server's memory.
type Running struct {
	Name      string     `json:"name"`
	SizeBytes int64      `json:"size_bytes"`
	VRAMBytes int64      `json:"vram_bytes"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// Hardware is the least machine that explains what the server holds.
type Hardware struct {
	Class          string `json:"class"`
	MinMemoryBytes int64  `json:"min_memory_bytes"`
	Basis          string `json:"basis"`
}

// Finding is one thing that is wrong, with what shows it and what cures it.
type Finding struct {
	ID       string   `json:"id"`
	Title    string   `json:"title"`
	Severity Severity `json:"severity"`
	Score    float64  `json:"score"`  // CVSS 3.1 base score
	Vector   string   `json:"vector"` // CVSS 3.1 vector
	CVEs     []string `json:"cves"`
	Evidence []string `json:"evidence"` // request, status, the deciding bytes
	Remedy   string   `json:"remedy"`   // ends with the next command to type
}
