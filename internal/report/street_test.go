package report_test

import (
	"strings"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/wave"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// rude is what a hostile host puts wherever it may: terminal commands, a
// direction override, nothing to see, a pile of marks, bytes that are no text,
// a formula, markup, a link, arguments of a message, wide characters.
const rude = "=cmd|'/C calc'!A0;\t@x\x1b[2J\x1b]0;owned\a\u202egpj.exe\u200b\u2028\u0085\x7f" +
	"a\u0301\u0302\u0303\u0304\u0305\xff\xfe\"<script>,[a](https://evil.example){0}\r\n漢字漢字🤖\U000e0041"

// the findings, as package finding words them or nearly.
var (
	openFinding = finding.Finding{
		ID: "ollama-open", Title: "Anyone who can reach this address can use the server", Severity: finding.Critical, Score: 10,
		Vector:   "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H",
		Evidence: []string{`GET /api/tags -> 200 {"models":[{"name":"llama3.3:70b"`},
		Remedy:   "Put a lock in front of it: gatehouse gate --upstream http://127.0.0.1:11434",
	}
	manageFinding = finding.Finding{
		ID: "ollama-manage-open", Title: "Anyone can pull, overwrite and delete its models", Severity: finding.Critical, Score: 9.8,
		Vector:   "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H",
		Evidence: []string{`DELETE /api/delete -> 400 {"error":"missing request body"}`},
		Remedy:   "Until there is a lock, listen on loopback only: gatehouse harden",
	}
	outdatedFinding = finding.Finding{
		ID: "ollama-outdated", Title: "The release has known vulnerabilities", Severity: finding.High, Score: 8.1,
		Vector:   "CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:H/A:H",
		CVEs:     []string{"CVE-2024-28224", "CVE-2024-37032", "CVE-2024-39720", "CVE-2024-45436", "CVE-2025-44779"},
		Evidence: []string{`GET /api/version -> 200 {"version":"0.1.28"}`},
		Remedy:   "Update Ollama, then look again: gatehouse check",
	}
	cleartextFinding = finding.Finding{
		ID: "ollama-cleartext", Title: "Prompts and keys cross the network in the clear", Severity: finding.Medium, Score: 5.9,
		Vector:   "CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:N/A:N",
		Evidence: []string{"GET / over HTTP -> 200 Ollama is running"},
		Remedy:   "Serve TLS: gatehouse gate",
	}
)

func openPowers() finding.Powers {
	return finding.Powers{
		Hello: finding.Proven, Read: finding.Proven, Infer: finding.Proven,
		Manage: finding.Proven, Account: finding.Unknown,
	}
}

func place(address string, port uint16, o finding.Outcome) wave.Record {
	return wave.Record{
		Wave: "w1", Target: address, Address: address, Port: port, ObservedAt: noon,
		Verdict: finding.Verdict{Outcome: o},
	}
}

// big is an open host with everything a card can show.
func big() wave.Record {
	r := place("127.0.0.7", 11434, finding.Open)
	later := noon.Add(5 * time.Minute)
	r.Identity = finding.Identity{
		Product: "ollama", Version: "0.1.28", Confidence: 0.98,
		Signals: []finding.Signal{
			{Name: "root-banner", For: "ollama", Weight: 0.6, Saw: "Ollama is running"},
			{Name: "tags-shape", For: "ollama", Weight: 0.9, Saw: `{"models":[{"name":"llama3.3:70b","model":`},
		},
	}
	r.Reason = "answers GET /api/tags without credentials"
	r.Powers = openPowers()
	r.Models = []finding.Model{
		{
			Name: "llama3.2:3b", Digest: strings.Repeat("a", 64), SizeBytes: 2_019_393_189,
			ParameterSize: "3.2B", Quantization: "Q4_K_M", Family: "llama", ModifiedAt: &noon,
		},
		{
			Name: "llama3.3:70b", Digest: strings.Repeat("b", 64), SizeBytes: 42_520_413_916,
			ParameterSize: "70.6B", Quantization: "Q4_K_M", Family: "llama", ModifiedAt: &noon,
			Capabilities: []string{"completion", "tools"}, ContextLength: 131072, SystemPromptBytes: 812,
		},
		{Name: "gpt-oss:120b-cloud", RemoteHost: "https://ollama.com:443", SizeBytes: 384},
	}
	r.Running = []finding.Running{{Name: "llama3.3:70b", SizeBytes: 47_000_000_000, VRAMBytes: 47_000_000_000, ExpiresAt: &later}}
	r.Hardware = &finding.Hardware{Class: "data-centre 80 GB", MinMemoryBytes: 47_000_000_000, Basis: "llama3.3:70b holds 47 GB of GPU memory"}
	r.Findings = []finding.Finding{cleartextFinding, openFinding, outdatedFinding, manageFinding}
	return r
}

// street is a dozen hosts, one or more of each kind, in no order.
func street() []wave.Record {
	open := big()
	open.Findings = []finding.Finding{openFinding, manageFinding, outdatedFinding, cleartextFinding}

	second := place("127.0.0.19", 11434, finding.Open)
	second.Identity = finding.Identity{Product: "ollama", Version: "0.17.4", Confidence: 0.97}
	second.Powers = finding.Powers{Hello: finding.Proven, Read: finding.Proven, Infer: finding.Reachable, Manage: finding.Reachable}
	second.Models = []finding.Model{{Name: "smollm2:135m", SizeBytes: 270_898_672}}
	second.Hardware = &finding.Hardware{Class: "consumer 8 GB", MinMemoryBytes: 600_000_000}
	second.Findings = []finding.Finding{openFinding, cleartextFinding}

	six := place("2001:db8:1234:5678:9abc:def0:1234:5678", 11434, finding.Open)
	six.Identity = finding.Identity{Product: "ollama", Version: "0.12.10-rc1", Confidence: 0.97}
	six.Powers = openPowers()
	six.Models = []finding.Model{{Name: "hf.co/unsloth/DeepSeek-R1-Distill-Llama-70B-GGUF:Q4_K_M", SizeBytes: 42_520_395_584}}
	six.Hardware = &finding.Hardware{Class: "data-centre 80 GB", MinMemoryBytes: 45_000_000_000}
	six.Findings = []finding.Finding{openFinding, manageFinding}

	named := place("127.0.0.40", 443, finding.Guarded)
	named.Name, named.Path, named.Target = "chat.example", "/ollama", "https://chat.example/ollama"
	named.TLS = &evidence.TLS{Version: "TLS 1.3", Names: []string{"chat.example"}, Issuer: "Test CA", NotAfter: noon.AddDate(0, 2, 0)}
	named.Identity = finding.Identity{Product: "ollama", Confidence: 0.6}
	named.Powers = finding.Powers{Hello: finding.Denied, Read: finding.Denied, Infer: finding.Denied, Manage: finding.Denied}

	guarded := place("127.0.0.8", 11434, finding.Guarded)
	guarded.Powers = finding.Powers{Hello: finding.Proven, Read: finding.Denied, Infer: finding.Denied, Manage: finding.Denied}
	guarded.Findings = []finding.Finding{cleartextFinding}

	alike := place("127.0.0.9", 8080, finding.Lookalike)
	alike.Identity = finding.Identity{Product: "llama.cpp", Version: "b4561", Confidence: 0.9}
	alike.Powers = finding.Powers{Hello: finding.Proven, Read: finding.Proven, Infer: finding.Reachable, Manage: finding.Denied}
	alike.Models = []finding.Model{{Name: "qwen2.5-coder-7b-instruct", SizeBytes: 4_683_073_184}}

	pot := place("127.0.0.23", 11434, finding.Honeypot)
	pot.Identity = finding.Identity{Product: "ollama", Version: "0.99.1", Confidence: 0.3}
	pot.Models = []finding.Model{{Name: "deepseek-r1:671b", SizeBytes: 404_430_188_519}, {Name: "llama3:8b", SizeBytes: 7}}

	broken := place("127.0.0.31", 11434, finding.Broken)
	broken.Identity.Version = rude
	broken.Reason = "header longer than 64 KiB"
	broken.Models = []finding.Model{{Name: rude, SizeBytes: -1}}

	return []wave.Record{
		place("127.0.0.12", 11434, finding.Silent), pot, named, six, place("127.0.0.2", 80, finding.Other),
		second, broken, place("127.0.0.100", 11434, finding.Refused), guarded, open, alike,
		place("127.0.0.99", 11434, finding.Refused),
	}
}

// account is the summary of records.
func account(records []wave.Record) wave.Summary {
	s := wave.Summary{
		Wave: "w1", Scope: "street", Started: noon, Ended: noon.Add(3400 * time.Millisecond), Seed: 18446744073709551615,
		Places: uint64(len(records)), Visited: uint64(len(records)),
		Outcomes: map[finding.Outcome]uint64{}, Severity: map[finding.Severity]uint64{},
	}
	for _, r := range records {
		s.Outcomes[r.Outcome]++
		for _, f := range r.Findings {
			s.Severity[f.Severity]++
		}
	}
	return s
}

// hostile is a record with something rude in every field that text can be in.
func hostile() wave.Record {
	r := big()
	r.Target, r.Name, r.Path, r.Reason = rude, rude, "/"+rude, rude
	r.TLS = &evidence.TLS{Version: rude, Names: []string{rude}, Subject: rude, Issuer: rude, Invalid: rude, NotAfter: noon}
	r.Identity.Product, r.Identity.Version = rude, rude
	r.Identity.Signals = []finding.Signal{{Name: rude, For: rude, Saw: rude, Weight: 0.1 + 0.2}}
	early := time.Date(0, 1, 1, 0, 0, 0, 0, time.FixedZone("", 86340))
	r.Models = []finding.Model{{
		Name: rude, Digest: rude, SizeBytes: -5, ParameterSize: rude, Quantization: rude, Family: rude,
		RemoteHost: rude, ModifiedAt: &early, Capabilities: []string{rude},
	}}
	r.Running = []finding.Running{{Name: rude, VRAMBytes: -1}}
	r.Hardware = &finding.Hardware{Class: rude, MinMemoryBytes: 1, Basis: rude}
	f := openFinding
	f.Title, f.Evidence, f.CVEs, f.Remedy = rude, []string{rude}, []string{rude}, rude
	r.Findings = []finding.Finding{f}
	r.Owner = owner.Owner{
		Country: rude, Network: rude, Provider: rude, Name: rude, Contact: rude,
		Claims: []owner.Claim{{What: rude, Value: rude, Source: rude}},
	}
	return r
}
