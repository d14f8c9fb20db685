package finding

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama"
)

// ollamaSigns lists what speaks for the real Ollama: a Go program on gin.
func (f *facts) ollamaSigns() (signals []Signal) {
	add := func(name string, weight float64, saw string) {
		signals = append(signals, Signal{name, "ollama", weight, saw})
	}
	if f.banner {
		add("banner", 0.4, "GET / -> "+ollama.Banner)
	}
	if f.versionOK {
		add("version reply", 0.5, "GET /api/version -> "+quote([]byte(f.version)))
	}
	if f.tagsOK {
		add("model list", 0.6, fmt.Sprintf("GET /api/tags -> %d models", len(f.tags)))
	}
	if f.psOK {
		add("memory list", 0.3, fmt.Sprintf("GET /api/ps -> %d models", len(f.ps)))
	}
	if x := f.host.Find(evidence.Version); x != nil && f.versionOK && slices.Equal(names(x), ginOrder) {
		add("header of gin", 0.3, strings.Join(ginOrder, ", "))
	}
	if x := f.host.Find(evidence.NoPath); x != nil && x.Status == 404 && string(x.Body) == "404 page not found" {
		add("gin's 404", 0.2, line(x, quote(x.Body)))
	}
	return signals
}

// ginOrder is the header of a JSON answer of gin on net/http, in order: that of
// every release measured.
var ginOrder = []string{"Content-Type", "Date", "Content-Length"}

func names(x *evidence.Exchange) []string {
	list := make([]string, len(x.Header))
	for i, f := range x.Header {
		list[i] = f.Name
	}
	return list
}

// trait is a mark of a product other than Ollama.
type trait struct {
	product string
	name    string
	weight  float64
	saw     func(*facts) string // "" when the mark is not there
}

// traits are how other products that speak the API, or serve language models,
// give themselves away. A product is named when its traits reach 0.5 together.
var traits = []trait{
	{"open-webui", "health reply", 0.6, func(f *facts) string {
		return f.rootJSON(`{"status":true}`)
	}},
	{"open-webui", "page title", 0.8, func(f *facts) string { return f.title("open webui") }},
	{"open-webui", "FastAPI's refusal", 0.3, func(f *facts) string {
		return f.inBody(evidence.Tags, `{"detail":"Not authenticated"}`)
	}},
	{"llama.cpp", "Server header", 0.9, func(f *facts) string { return f.server("llama.cpp") }},
	{"llama.cpp", "model list with empty size and digest", 0.6, func(f *facts) string {
		return f.inBody(evidence.Tags, `"size":""`, `"digest":""`)
	}},
	{"llama.cpp", "page title", 0.7, func(f *facts) string { return f.title("llama.cpp") }},
	{"koboldcpp", "Server header", 0.9, func(f *facts) string { return f.server("concedo") }},
	{"koboldcpp", "model named koboldcpp", 0.7, func(f *facts) string {
		return f.inBody(evidence.Tags, `"koboldcpp`)
	}},
	{"koboldcpp", "page title", 0.7, func(f *facts) string { return f.title("koboldai lite", "koboldcpp") }},
	{"lm-studio", "refusal of unknown endpoints", 0.9, func(f *facts) string {
		return cmpOr(f.inBody(evidence.Root, "Unexpected endpoint or method"),
			f.inBody(evidence.Tags, "Unexpected endpoint or method"))
	}},
	{"localai", "page title", 0.8, func(f *facts) string { return f.title("localai") }},
	{"localai", "header", 0.8, func(f *facts) string { return f.header("Localai-Machine-Tag") }},
	{"litellm", "page title", 0.8, func(f *facts) string { return f.title("litellm") }},
	{"litellm", "header", 0.8, func(f *facts) string { return f.headerPrefix("x-litellm-") }},
	{"litellm", "greeting", 0.8, func(f *facts) string { return f.inBody(evidence.Root, `"LiteLLM`) }},
	{"litellm", "refusal", 0.8, func(f *facts) string { return f.inBody(evidence.Tags, "LiteLLM") }},
	{"vllm", "header", 0.6, func(f *facts) string { return f.headerPrefix("x-vllm-") }},
	{"vllm", "Server header", 0.8, func(f *facts) string { return f.server("vllm") }},
	{"gpustack", "page title", 0.8, func(f *facts) string { return f.title("gpustack") }},
	{"olla", "header", 0.8, func(f *facts) string { return f.headerPrefix("x-olla-") }},
	{"llama-swap", "version reply with its build", 0.6, func(f *facts) string {
		return f.inBody(evidence.Version, `"build_date":`, `"commit":`)
	}},
	{"docker-model-runner", "greeting", 0.8, func(f *facts) string {
		return f.inBody(evidence.Root, "Docker Model Runner")
	}},
	{"open-webui", "its proxy's place and stack", 0.6, func(f *facts) string {
		if strings.HasSuffix(f.host.Path, "/ollama") {
			return f.server("uvicorn")
		}
		return ""
	}},
	{"llama-swap", "page title", 0.8, func(f *facts) string { return f.title("llama-swap") }},
	{"jan", "page title", 0.6, func(f *facts) string { return f.title("jan") }},
}

// product names the product whose traits show, "" for none.
func (f *facts) product() (product string, signals []Signal) {
	for _, t := range traits {
		if saw := t.saw(f); saw != "" {
			signals = append(signals, Signal{t.name, t.product, t.weight, saw})
		}
	}
	best := 0.49
	for _, s := range signals {
		if c := combined(signals, s.For); c > best {
			best, product = c, s.For
		}
	}
	if product == "" {
		return "", nil
	}
	return product, slices.DeleteFunc(signals, func(s Signal) bool { return s.For != product })
}

// languageServer reports whether product serves language models itself, so that
// it matters to who counts them even where it does not speak Ollama's API.
func (f *facts) languageServer(product string) bool {
	for _, ask := range []evidence.Ask{evidence.Root, evidence.Version, evidence.Tags, evidence.Ps} {
		if f.locked(ask) {
			return false
		}
	}
	return product != ""
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (f *facts) title(words ...string) string {
	title := f.pageTitle
	for _, w := range words {
		if title != nil && (string(title) == w || len(w) > 4 && bytes.Contains(title, []byte(w))) {
			return "GET / -> <title>" + quote(title)
		}
	}
	return ""
}

// titleOf is the title of a page in lower case, nil when it has none.
func titleOf(page []byte) []byte {
	page = page[:min(len(page), maxPage)]
	at := indexFold(page, "<title")
	if at < 0 {
		return nil
	}
	_, rest, _ := bytes.Cut(page[at:], []byte(">"))
	end := indexFold(rest, "</title")
	if end < 0 {
		return nil
	}
	return append([]byte{}, bytes.TrimSpace(bytes.ToLower(rest[:end]))...)
}

func (f *facts) server(part string) string {
	for i := range f.host.Exchanges {
		if s := f.host.Exchanges[i].Get("Server"); indexFold(s, part) >= 0 {
			return "Server: " + quote([]byte(s))
		}
	}
	return ""
}

func (f *facts) header(name string) string {
	for i := range f.host.Exchanges {
		if v := f.host.Exchanges[i].Get(name); v != "" {
			return name + ": " + quote([]byte(v))
		}
	}
	return ""
}

func (f *facts) headerPrefix(prefix string) string {
	for i := range f.host.Exchanges {
		for _, h := range f.host.Exchanges[i].Header {
			if len(h.Name) >= len(prefix) && strings.EqualFold(h.Name[:len(prefix)], prefix) {
				return quote([]byte(h.Name + ": " + h.Value))
			}
		}
	}
	return ""
}

func (f *facts) rootJSON(want string) string {
	x := f.host.Find(evidence.Root)
	if x == nil {
		return ""
	}
	body := bytes.TrimSpace(x.Body)
	if !bytes.HasPrefix(body, []byte("{")) || string(bytes.ReplaceAll(body, []byte(" "), nil)) != want {
		return ""
	}
	return line(x, quote(x.Body))
}

// inBody reports the exchange if its body holds every part, spaces apart.
func (f *facts) inBody(ask evidence.Ask, parts ...string) string {
	x := f.host.Find(ask)
	if x == nil {
		return ""
	}
	packed := f.packed(x)
	for _, p := range parts {
		if !bytes.Contains(packed, []byte(p)) {
			return ""
		}
	}
	return line(x, quote(x.Body[:min(len(x.Body), maxPage)]))
}

// packed is the body of x without the spaces that some write between members.
// It is asked for once for each trait, and made once.
func (f *facts) packed(x *evidence.Exchange) []byte {
	n := f.noteOf(x)
	if n != nil && n.packed != nil {
		return n.packed
	}
	packed := x.Body[:min(len(x.Body), maxPage)]
	for _, spaced := range []string{`": `, `, "`} {
		if bytes.Contains(packed, []byte(spaced)) {
			packed = bytes.ReplaceAll(packed, []byte(spaced), []byte(strings.ReplaceAll(spaced, " ", "")))
		}
	}
	if n != nil {
		n.packed = packed
	}
	return packed
}

// contradictions lists where a host that claims to be an Ollama contradicts
// itself, the heaviest first. What a proxy in front explains is weak.
func (f *facts) contradictions() (odd []Signal) {
	add := func(name string, weight float64, format string, args ...any) {
		odd = append(odd, Signal{name, "honeypot", weight, fmt.Sprintf(format, args...)})
	}
	f.oddVersion(add)
	f.oddModels(add)
	f.oddServer(add)
	f.oddPaths(add)
	slices.SortStableFunc(odd, func(a, b Signal) int {
		switch {
		case a.Weight > b.Weight:
			return -1
		case a.Weight < b.Weight:
			return 1
		}
		return 0
	})
	return odd
}

type addSignal func(name string, weight float64, format string, args ...any)

func (f *facts) oddVersion(add addSignal) {
	if !f.versionOK {
		return
	}
	if ollama.Existence(f.version) == ollama.Impossible {
		add("version that never existed", 0.85, "%s", quote([]byte(f.version)))
		return
	}
	r, err := ollama.ParseRelease(f.version)
	if err != nil {
		add("version that is none", 0.4, "%s", quote([]byte(f.version)))
		return
	}
	// Source builds call themselves 0.0.0.
	before := func(minor, patch int) bool {
		return r != (ollama.Release{}) && r.Compare(ollama.Release{Minor: minor, Patch: patch, Pre: "rc0"}) < 0
	}
	if f.psOK && before(1, 38) {
		add("route newer than the version", 0.6, "GET /api/ps, of 0.1.38, answers in %s", quote([]byte(f.version)))
	}
	for i := range f.tags {
		if f.tags[i].Remote() && before(12, 0) {
			add("cloud model before there were any", 0.6, "%.60q in %s", f.tags[i].Name, quote([]byte(f.version)))
			break
		}
	}
}

func (f *facts) oddModels(add addSignal) {
	byDigest := make(map[string]*ollama.Model)
	listed := make(map[string]bool)
	badDigest, pattern, badSize, sizes, repeated, future := "", "", "", 0, "", ""
	misfits := 0
	retold := f.retold(evidence.Tags)
	sameTime := len(f.tags) > 2 && !(retold && f.tags[0].ModifiedAt.IsZero())
	bySize := make(map[int64]map[string]bool) // the digests of each size
	for i := range f.tags {
		m := &f.tags[i]
		listed[m.Digest] = true
		listed[m.Name] = true
		switch {
		case monotonous(m.Digest) && ollama.ValidDigest(m.Digest):
			pattern = cmpOr(pattern, fmt.Sprintf("%.60q of %.60q", m.Digest, m.Name))
		case retold && m.Digest == "":
		case !ollama.ValidDigest(m.Digest) && !m.Remote():
			badDigest = cmpOr(badDigest, fmt.Sprintf("%.60q of %.60q", m.Digest, m.Name))
		}
		// `ollama cp` gives one model two names: same digest, same size.
		if other := byDigest[m.Digest]; other != nil && other.Size != m.Size && m.Digest != "" {
			repeated = cmpOr(repeated, fmt.Sprintf("%.60q and %.60q have one digest and two sizes", other.Name, m.Name))
		}
		byDigest[m.Digest] = m
		if !m.Size.Odd && m.Size.N > 0 && !m.Remote() {
			if bySize[m.Size.N] == nil {
				bySize[m.Size.N] = make(map[string]bool)
			}
			bySize[m.Size.N][m.Digest+m.Name] = true
		}
		if params, err := ollama.ParseParameters(m.Details.ParameterSize); err == nil && params > maxParameters {
			badSize, misfits = cmpOr(badSize, fmt.Sprintf("%.60q has %.20s parameters", m.Name, m.Details.ParameterSize)), misfits+2
		}
		if m.Size.Odd {
			badSize = cmpOr(badSize, fmt.Sprintf("size of %.60q is no number", m.Name))
		}
		if fits, known := ollama.SizeFits(*m); known {
			sizes++
			if !fits {
				misfits++
				badSize = cmpOr(badSize, fmt.Sprintf("%.60q: %d bytes for %.20s at %.20s",
					m.Name, m.Size.N, m.Details.ParameterSize, m.Details.QuantizationLevel))
			}
		}
		if m.ModifiedAt.After(f.host.ObservedAt.Add(48 * time.Hour)) {
			future = cmpOr(future, fmt.Sprintf("%.60q modified at %s", m.Name, m.ModifiedAt.Format(time.RFC3339)))
		}
		sameTime = sameTime && m.ModifiedAt.Equal(f.tags[0].ModifiedAt.Time)
	}
	if badDigest != "" {
		add("digest that is no SHA-256", 0.8, "%s", badDigest)
	}
	if pattern != "" {
		add("digest of a pattern", 0.85, "%s", pattern)
	}
	if repeated != "" {
		add("repeated digest", 0.85, "%s", repeated)
	}
	for size, models := range bySize {
		if len(models) >= 3 && 2*len(models) > len(f.tags) && distinctDigests(f.tags, size) >= 3 {
			add("one size for different models", 0.85, "%d models of %d bytes", len(models), size)
		}
	}
	switch {
	case badSize == "":
	case misfits > 1 && 2*misfits > sizes || misfits == 0:
		add("sizes that do not fit", 0.8, "%s", badSize)
	default:
		add("size that does not fit", 0.4, "%s", badSize)
	}
	if future != "" {
		add("time in the future", 0.4, "%s", future)
	}
	if sameTime {
		add("all models of one moment", 0.4, "%d models modified at %s", len(f.tags), f.tags[0].ModifiedAt.Format(time.RFC3339Nano))
	}
	for i := range f.ps {
		m := &f.ps[i]
		if f.tagsOK && !listed[m.Digest] && !listed[m.Name] {
			// Deleting a loaded model does this for some minutes.
			add("runs a model that it does not list", 0.4, "%.60q", m.Name)
			break
		}
	}
	for i := range f.ps {
		m := &f.ps[i]
		if m.SizeVRAM.N > m.Size.N {
			add("more memory on the card than in all", 0.6, "%.60q: %d of %d bytes", m.Name, m.SizeVRAM.N, m.Size.N)
			break
		}
	}
	for i := range f.ps {
		m := &f.ps[i]
		if !m.ExpiresAt.IsZero() && m.ExpiresAt.Before(f.host.ObservedAt.Add(-7*24*time.Hour)) {
			add("runs what expired long ago", 0.5, "%.60q until %s", m.Name, m.ExpiresAt.Format(time.RFC3339))
			break
		}
	}
}

// maxParameters is more than any model has that fits one server.
const maxParameters = 50e12

// distinctDigests counts the different digests among models of one size.
func distinctDigests(models []ollama.Model, size int64) int {
	seen := make(map[string]bool)
	for i := range models {
		if models[i].Size.N == size {
			seen[models[i].Digest] = true
		}
	}
	return len(seen)
}

// imitations lists what shows a program that speaks the API without passing
// itself off as the original: another stack's form, and no try at what Ollama
// makes of a model. A honeypot tries, and gets it wrong.
func (f *facts) imitations() (signals []Signal) {
	add := func(name string, weight float64, format string, args ...any) {
		signals = append(signals, Signal{name, "imitation", weight, fmt.Sprintf(format, args...)})
	}
	if x := f.host.Find(evidence.Version); x != nil && f.versionOK && x.Retold == "" {
		if bytes.HasSuffix(x.Body, []byte("\n")) {
			add("line end after JSON", 0.6, "%s", line(x, quote(x.Body)))
		}
		if t := x.Get("Content-Type"); t != "application/json; charset=utf-8" {
			add("content type of another stack", 0.4, "Content-Type: %s", quote([]byte(t)))
		}
		if other := otherStack(x); other != "" {
			add("server of another stack", 0.5, "%s", other)
		}
	}
	if x := f.host.Find(evidence.Root); x != nil && strings.TrimSpace(string(x.Body)) == `"`+ollama.Banner+`"` {
		add("banner in JSON", 0.5, "%s", line(x, quote(x.Body)))
	}
	if x := f.host.Find(evidence.Ps); x != nil && x.Status == 404 && f.tagsOK {
		add("no memory list", 0.3, "%s", line(x, quote(x.Body)))
	}
	if f.retold(evidence.Tags) {
		return signals
	}
	for i := range f.tags {
		m := &f.tags[i]
		if digest := strings.TrimPrefix(m.Digest, "sha256:"); len(digest) != 64 && !m.Remote() {
			add("no digest", 0.5, "%.60q of %.60q", m.Digest, m.Name)
			break
		}
	}
	for i := range f.tags {
		if m := &f.tags[i]; m.Size == (ollama.Int{}) && !m.Remote() {
			add("no size", 0.3, "of %.60q", m.Name)
			break
		}
	}
	return signals
}

// imitates reports whether the signals make an imitation: nearly certain
// together, and nothing odd but what they explain.
func imitates(signals, odd []Signal) bool {
	for _, s := range odd {
		switch s.Name {
		case "digest that is no SHA-256", "size that does not fit", "sizes that do not fit",
			"server of another stack", "header of another stack", "server before it":
		default:
			return false
		}
	}
	return combined(signals, "imitation") >= 0.75
}

// monotonous reports whether a digest is made of too few different digits for
// a hash: of 64 random ones fewer than 8 differ once in 10^20.
func monotonous(digest string) bool {
	var seen [256]bool
	n := 0
	for i := range len(digest) {
		if !seen[digest[i]] {
			seen[digest[i]] = true
			n++
		}
	}
	return n < 8
}

func (f *facts) oddServer(add addSignal) {
	x := f.host.Find(evidence.Version)
	if x == nil || !f.versionOK || x.Retold != "" {
		return
	}
	if other := otherStack(x); other != "" {
		add("server of another stack", 0.6, "%s", other)
	} else if server := x.Get("Server"); server != "" {
		// An honest proxy says its name.
		add("server before it", 0.1, "Server: %s", quote([]byte(server)))
	} else if !slices.Equal(names(x), ginOrder) && !proxied(x) {
		add("header of another stack", 0.4, "%s", quote([]byte(strings.Join(names(x), ", "))))
	}
}

// otherStack names the application server that answers x, "" when none shows.
// It is no proxy: what it answers, it made.
func otherStack(x *evidence.Exchange) string {
	if powered := x.Get("X-Powered-By"); powered != "" {
		return "X-Powered-By: " + quote([]byte(powered))
	}
	server := x.Get("Server")
	lower := strings.ToLower(server)
	for _, part := range []string{"python", "werkzeug", "uvicorn", "gunicorn", "express", "twisted", "aiohttp", "basehttp"} {
		if strings.Contains(lower, part) {
			return "Server: " + quote([]byte(server))
		}
	}
	return ""
}

// proxied reports whether the header shows an honest reverse proxy, which adds
// and reorders fields.
func proxied(x *evidence.Exchange) bool {
	for _, name := range []string{"Via", "X-Cache", "CF-Ray", "X-Request-Id", "Alt-Svc", "Strict-Transport-Security", "Connection", "Keep-Alive", "Transfer-Encoding"} {
		if x.Get(name) != "" {
			return true
		}
	}
	return false
}

func (f *facts) oddPaths(add addSignal) {
	root := f.host.Find(evidence.Root)
	same := 0
	for _, ask := range []evidence.Ask{evidence.Version, evidence.Tags, evidence.Ps} {
		if x := f.host.Find(ask); x != nil && root != nil && x.Status == 200 && len(x.Body) > 0 && bytes.Equal(x.Body, root.Body) {
			same++
		}
	}
	if same == 3 && f.claimsOllama() {
		add("same answer to every path", 0.9, "%s", line(root, quote(root.Body)))
	}
	if x := f.host.Find(evidence.NoModel); x != nil && x.Status == 200 {
		add("knows a model that cannot exist", 0.85, "%s", line(x, quote(x.Body)))
	}
	if x := f.host.Find(evidence.NoPath); x != nil && x.Status == 200 {
		add("answers a path that cannot exist", 0.6, "%s", line(x, quote(x.Body)))
	}
}
