package finding

import (
	"fmt"
	"math"
	"strings"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama"
)

// Rules are what evidence is judged by. The zero Rules know no advisory.
type Rules struct {
	Advisories *ollama.Advisories
}

// Judge says what the host in h is. It believes nothing on one sign: each
// verdict lists the signals it rests on.
func (r Rules) Judge(h *evidence.Host) Verdict {
	v := r.judge(h)
	v.Findings = r.findings(h, &v)
	return v
}

func (r Rules) judge(h *evidence.Host) Verdict {
	switch h.Reach {
	case evidence.Refused:
		return Verdict{Outcome: Refused, Reason: h.Reason, Powers: unknownPowers}
	case evidence.Silent:
		return Verdict{Outcome: Silent, Reason: h.Reason, Powers: unknownPowers}
	case evidence.Broken:
		return judgeNoHTTP(h)
	case evidence.Unasked:
		// It may be an Ollama; to count it as one would be a guess.
		return Verdict{Outcome: Other, Reason: h.Reason, Powers: unknownPowers}
	}

	f := read(h)
	v := Verdict{Powers: f.powers()}
	ollamaSigns := f.ollamaSigns()
	product, productSigns := f.product()
	locks := f.locks()
	odd := f.contradictions()
	imitation := f.imitations()

	is := func(o Outcome, reason string) Verdict {
		v.Outcome, v.Reason = o, reason
		return v
	}
	identify := func(product string, signs ...[]Signal) {
		v.Identity = Identity{Product: product, Version: f.versionOf(product)}
		for _, s := range signs {
			v.Identity.Signals = append(v.Identity.Signals, s...)
		}
		v.Identity.Confidence = round(combined(v.Identity.Signals, product))
	}

	switch {
	case f.hostile != "":
		identify("", ollamaSigns, productSigns)
		return is(Broken, f.hostile)

	case product != "" && !f.locked(evidence.Tags) && (f.speaksAPI() || f.languageServer(product)):
		identify(product, productSigns)
		f.fill(&v)
		return is(Lookalike, "answers as "+product)

	case f.claimsOllama() && f.malformed != "":
		identify("ollama", ollamaSigns, odd)
		return is(Broken, f.malformed)

	case f.claimsOllama() && imitates(imitation, odd):
		identify("imitation", imitation)
		f.fill(&v)
		v.Identity.Product = product
		return is(Lookalike, "speaks Ollama's API, and is another program: "+imitation[0].Name)

	case f.claimsOllama() && contradicts(odd):
		identify("ollama", ollamaSigns, odd)
		return is(Honeypot, odd[0].Name+": "+odd[0].Saw)

	case f.tagsOK || f.versionOK && !f.locked(evidence.Tags):
		identify("ollama", ollamaSigns, odd)
		f.fill(&v)
		if !f.tagsOK && !f.banner {
			// {"version":"…"} alone is what a hundred other programs answer.
			identify("", ollamaSigns)
			return is(Other, "answers /api/version, but lists no models")
		}
		return is(Open, "answers strangers")

	case len(locks) > 0:
		identify("", ollamaSigns, locks)
		if product != "" {
			identify(product, productSigns, locks)
		} else if f.banner || f.versionOK || f.namesOllama {
			identify("ollama", ollamaSigns, locks)
		}
		return is(Guarded, locks[0].Saw)

	case f.malformed != "" && f.banner:
		identify("ollama", ollamaSigns)
		return is(Broken, f.malformed)

	case f.banner:
		identify("", ollamaSigns)
		return is(Other, "shows Ollama's banner, but none of its API")

	case product != "":
		identify(product, productSigns)
		return is(Other, "answers as "+product)
	}
	identify("", ollamaSigns)
	return is(Other, f.describe())
}

var unknownPowers = Powers{Unknown, Unknown, Unknown, Unknown, Unknown}

// judgeNoHTTP judges a place that gave no whole HTTP answer.
func judgeNoHTTP(h *evidence.Host) Verdict {
	v := Verdict{Outcome: Broken, Reason: h.Reason, Powers: unknownPowers}
	if strings.Contains(h.Reason, "certificate required") || strings.Contains(h.Reason, "bad certificate") {
		v.Outcome, v.Reason = Guarded, "asks for a client certificate"
		v.Powers = Powers{Denied, Denied, Denied, Denied, Denied}
		v.Identity.Signals = []Signal{{Name: "client certificate", For: "guarded", Weight: 0.9, Saw: h.Reason}}
		v.Identity.Confidence = 0
		return v
	}
	for i := range h.Exchanges {
		x := &h.Exchanges[i]
		if x.Status != 0 || len(x.Body) == 0 {
			continue
		}
		if name := protocolOf(x.Body); name != "" {
			v.Outcome, v.Reason = Other, "speaks "+name
			v.Identity = Identity{
				Product: name, Confidence: 0.9,
				Signals: []Signal{{Name: "greeting", For: name, Weight: 0.9, Saw: quote(x.Body)}},
			}
			return v
		}
		v.Reason = x.Error + ": " + quote(x.Body)
		return v
	}
	return v
}

// protocolOf names the protocol that greets with raw, "" when none is known.
func protocolOf(raw []byte) string {
	for _, p := range []struct{ start, name string }{
		{"SSH-", "ssh"},
		{"220 ", "smtp or ftp"},
		{"220-", "smtp or ftp"},
		{"+OK", "pop3"},
		{"* OK", "imap"},
		{"-ERR", "redis"},
		{"-NOAUTH", "redis"},
		{"RFB ", "vnc"},
		{"AMQP", "amqp"},
		{"\x16\x03", "tls"},
	} {
		if strings.HasPrefix(string(raw), p.start) {
			return p.name
		}
	}
	// MySQL: three bytes of length, sequence 0, protocol 10.
	if len(raw) > 5 && raw[3] == 0 && raw[4] == 10 && raw[2] == 0 {
		return "mysql"
	}
	return ""
}

// combined is the confidence that signals, each right with its own weight,
// give together: one minus the chance that all of them mislead.
func combined(signals []Signal, what string) float64 {
	miss := 1.0
	for _, s := range signals {
		if s.For == what {
			miss *= 1 - s.Weight
		}
	}
	return 1 - miss
}

// contradicts reports whether the contradictions make a honeypot: together
// near certain, and either one of them strong or two of them not weak.
func contradicts(odd []Signal) bool {
	strong, notWeak := 0, 0
	for _, s := range odd {
		if s.Weight >= 0.8 {
			strong++
		}
		if s.Weight >= 0.4 {
			notWeak++
		}
	}
	return combined(odd, "honeypot") >= 0.75 && (strong > 0 || notWeak > 1)
}

func round(x float64) float64 { return math.Round(x*100) / 100 }

// quoteLen is how many bytes of a reply an evidence line shows.
const quoteLen = 96

// quote shortens what a host said and makes it valid UTF-8. It does not make it
// fit for a terminal: that is for whoever prints it.
func quote(b []byte) string {
	cut := ""
	if len(b) > quoteLen {
		b, cut = b[:quoteLen], "…"
	}
	return strings.ToValidUTF8(string(b), "\uFFFD") + cut
}

// line is one evidence line: request, status, the deciding bytes.
func line(x *evidence.Exchange, saw string) string {
	if x.Retold != "" {
		saw += " (told by " + x.Retold + ")"
	}
	return fmt.Sprintf("%s %s -> %d %s", x.Method, x.Path, x.Status, saw)
}
