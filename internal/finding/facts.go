package finding

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama"
)

// facts are what the evidence of one host says, before it is weighed.
type facts struct {
	host *evidence.Host

	banner      bool
	version     string
	versionOK   bool // GET /api/version in Ollama's shape
	tagsOK      bool
	psOK        bool
	namesOllama bool // some page, realm or redirect names Ollama
	tags        []ollama.Model
	ps          []ollama.Running

	hostile   string // what breaks HTTP's rules or a budget
	malformed string // what breaks the API's rules

	pageTitle []byte  // of GET /; see titleOf
	notes     [4]note // on the first exchanges, the reads that every host is asked
}

// note is what is asked again and again of one exchange, and worked out once.
type note struct {
	packed    []byte // see facts.packed
	lock      string // see lock
	lockKnown bool
}

// noteOf is the note on x; nil for an exchange that has none.
func (f *facts) noteOf(x *evidence.Exchange) *note {
	for i := range min(len(f.host.Exchanges), len(f.notes)) {
		if x == &f.host.Exchanges[i] {
			return &f.notes[i]
		}
	}
	return nil
}

// maxPage is how many bytes of a body are looked through for words.
const maxPage = 64 << 10

func read(h *evidence.Host) *facts {
	f := &facts{host: h}
	for i := range h.Exchanges {
		f.take(&h.Exchanges[i])
	}
	if x := h.Find(evidence.Root); x != nil {
		f.pageTitle = titleOf(x.Body)
	}
	return f
}

func (f *facts) take(x *evidence.Exchange) {
	if x.Cut {
		f.setHostile("%s %s: body longer than %d bytes", x.Method, x.Path, len(x.Body))
	} else if x.Error != "" && (x.Status != 0 || len(x.Body) > 0) {
		f.setHostile("%s %s: %s", x.Method, x.Path, x.Error)
	} else if x.Error != "" && f.malformed == "" {
		// It answered one request and not this one.
		f.malformed = fmt.Sprintf("%s %s: %s", x.Method, x.Path, x.Error)
	}
	f.namesOllama = f.namesOllama || indexFold(x.Body[:min(len(x.Body), 8<<10)], "ollama") >= 0 ||
		indexFold(x.Get("WWW-Authenticate"), "ollama") >= 0 || indexFold(x.Get("Location"), "ollama") >= 0
	if x.Status != 200 || x.Error != "" || x.Cut {
		return
	}
	var err error
	switch x.Ask {
	case evidence.Root:
		f.banner = string(x.Body) == ollama.Banner
	case evidence.Version:
		var v ollama.VersionReply
		if v, err = ollama.ParseVersion(x.Body); err == nil {
			f.version, f.versionOK = v.Version, true
		}
	case evidence.Tags:
		var t ollama.TagsReply
		if t, err = ollama.ParseTags(x.Body); err == nil {
			f.tags, f.tagsOK = t.Models, true
		}
	case evidence.Ps:
		var p ollama.PsReply
		if p, err = ollama.ParsePs(x.Body); err == nil {
			f.ps, f.psOK = p.Models, true
		}
	}
	// A page is not a malformed reply; what calls itself JSON, or starts like
	// the JSON it should be, is.
	if err != nil && !errors.Is(err, ollama.ErrNoMember) && f.malformed == "" && looksJSON(x) {
		f.malformed = fmt.Sprintf("%s %s: %s", x.Method, x.Path, err)
	}
}

func (f *facts) setHostile(format string, args ...any) {
	if f.hostile == "" {
		f.hostile = fmt.Sprintf(format, args...)
	}
}

func looksJSON(x *evidence.Exchange) bool {
	return indexFold(x.Get("Content-Type"), "json") >= 0 ||
		bytes.HasPrefix(bytes.TrimLeft(x.Body, " \t\r\n"), []byte("{"))
}

// indexFold is where word, which is ASCII in lower case, begins in text with its
// letters in any case; -1 when it is not there. To lower the text first would
// copy it.
func indexFold[T []byte | string](text T, word string) int {
	for i := 0; i+len(word) <= len(text); i++ {
		n := 0
		for n < len(word) && lower(text[i+n]) == word[n] {
			n++
		}
		if n == len(word) {
			return i
		}
	}
	return -1
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// speaksAPI reports whether anything but the banner is in Ollama's shape.
func (f *facts) speaksAPI() bool { return f.banner || f.versionOK || f.tagsOK || f.psOK }

// claimsOllama reports whether the host passes itself off as an Ollama.
func (f *facts) claimsOllama() bool { return f.banner || f.tagsOK || f.versionOK && f.psOK }

// locked reports whether the answer to ask is a lock's.
func (f *facts) locked(ask evidence.Ask) bool {
	x := f.host.Find(ask)
	return x != nil && f.lock(x) != ""
}

// lock is lock(x), worked out once.
func (f *facts) lock(x *evidence.Exchange) string {
	n := f.noteOf(x)
	if n == nil {
		return lock(x)
	}
	if !n.lockKnown {
		n.lock, n.lockKnown = lock(x), true
	}
	return n.lock
}

// lock says which lock answered x, "" when none did.
func lock(x *evidence.Exchange) string {
	switch x.Status {
	case 401, 407:
		challenge := x.Get("WWW-Authenticate")
		if x.Status == 407 {
			challenge = x.Get("Proxy-Authenticate")
		}
		if challenge == "" {
			return fmt.Sprintf("%d %s", x.Status, quote(x.Body))
		}
		return fmt.Sprintf("%d, asks for %s", x.Status, quote([]byte(challenge)))
	case 403:
		return "403 " + quote(x.Body)
	case 301, 302, 303, 307, 308:
		if to := x.Get("Location"); isLogin(to) {
			return fmt.Sprintf("%d to %s", x.Status, quote([]byte(to)))
		}
	case 400:
		// nginx, where a client certificate is optional to TLS and not to it.
		if bytes.Contains(x.Body, []byte("No required SSL certificate was sent")) {
			return "400, asks for a client certificate"
		}
	case 200:
		if page := x.Body[:min(len(x.Body), maxPage)]; !looksJSON(x) && indexFold(page, `type="password"`) >= 0 {
			return "200, a page that asks for a password"
		}
	}
	return ""
}

// isLogin reports whether a redirect leads to where one signs in. Names of
// paths and parameters as oauth2-proxy, Authelia, authentik, Keycloak,
// Cloudflare Access and Traefik's forward-auth use them.
func isLogin(location string) bool {
	u, err := url.Parse(location)
	if err != nil {
		return false
	}
	q := u.Query()
	for _, name := range []string{"rd", "redirect_uri", "client_id", "SAMLRequest", "redirect_url"} {
		if q.Has(name) {
			return true
		}
	}
	where := strings.ToLower(u.Host + u.Path)
	for _, word := range []string{"login", "signin", "sign_in", "sign-in", "auth", "sso", "/cdn-cgi/access", "outpost", "account"} {
		if strings.Contains(where, word) {
			return true
		}
	}
	return false
}

// locks lists the locks in front of the API, the one before the models first.
func (f *facts) locks() (signals []Signal) {
	for _, ask := range []evidence.Ask{evidence.Tags, evidence.Version, evidence.Ps} {
		x := f.host.Find(ask)
		if x == nil {
			continue
		}
		if saw := f.lock(x); saw != "" {
			signals = append(signals, Signal{"lock before " + x.Path, "guarded", 0.8, saw})
		}
	}
	return signals
}

// powers says what was seen of each power.
func (f *facts) powers() Powers {
	p := unknownPowers
	switch {
	case f.versionOK || f.banner:
		p.Hello = Proven
	case f.locked(evidence.Version):
		p.Hello = Denied
	}
	switch {
	case f.tagsOK:
		p.Read = Proven
	case f.locked(evidence.Tags):
		p.Read = Denied
	}
	p.Infer = f.proof(evidence.ProveInfer, evidence.ProveChat)
	p.Manage = f.proof(evidence.Delete, evidence.Create, evidence.Pull)
	if p.Infer == Unknown && p.Manage == Unknown && p.Read != Unknown {
		// Not asked. What stands before the models stands before the rest too,
		// as far as can be seen.
		rest := Reachable
		if p.Read == Denied {
			rest = Denied
		}
		p.Infer, p.Manage = rest, rest
	}
	// Asking for the account would have the server call its maker, so it is
	// never asked for: what stands before the other handlers stands before it.
	switch p.Manage {
	case Proven, Reachable:
		p.Account = Reachable
	case Denied:
		p.Account = Denied
	}
	return p
}

// proof sums up what requests without a body brought: one handler's answer
// proves the power, a lock before each denies it.
func (f *facts) proof(asks ...evidence.Ask) State {
	state := Unknown
	for _, ask := range asks {
		x := f.host.Find(ask)
		if x == nil {
			continue
		}
		switch {
		case isHandler(x):
			return Proven
		case f.lock(x) != "" || x.Status == 404 || x.Status == 405:
			if state == Unknown {
				state = Denied
			}
		default:
			state = Reachable
		}
	}
	return state
}

// isHandler reports whether x is how Ollama's own handler answers a request
// without a body: 400 and JSON that complains of the body. The words differ by
// release and route, so that the subject is matched and not one sentence; a
// lock's 400 complains of credentials.
func isHandler(x *evidence.Exchange) bool {
	if x.Status != 400 || x.Error != "" {
		return false
	}
	var native struct {
		Error string `json:"error"`
	}
	var compatible struct {
		Error struct {
			Message string `json:"message"`
			Type    string `json:"type"`
		} `json:"error"`
	}
	text := ""
	if json.Unmarshal(x.Body, &native) == nil {
		text = native.Error
	} else if json.Unmarshal(x.Body, &compatible) == nil {
		text = compatible.Error.Message
	}
	text = strings.ToLower(text)
	for _, words := range []string{"missing request body", "eof", "unexpected end of json", "invalid request"} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

// versionOf is the version of product as far as it is known: what a look-alike
// answers under /api/version is the Ollama it plays, not itself.
func (f *facts) versionOf(product string) string {
	if product == "ollama" || product == "open-webui" && f.host.Path == "" {
		return f.version
	}
	return ""
}

// describe says in a few words what an ordinary web server answered.
func (f *facts) describe() string {
	x := f.host.Find(evidence.Root)
	if x == nil || x.Status == 0 {
		return f.malformed
	}
	if to := x.Get("Location"); to != "" {
		return fmt.Sprintf("%d to %s", x.Status, quote([]byte(to)))
	}
	if x.Retold != "" && len(x.Body) == 0 {
		return fmt.Sprintf("HTTP %d, the rest not told by %s", x.Status, x.Retold)
	}
	if server := x.Get("Server"); server != "" {
		return fmt.Sprintf("HTTP %d from %s", x.Status, quote([]byte(server)))
	}
	return fmt.Sprintf("HTTP %d, nothing of Ollama's", x.Status)
}

// retold reports whether the answer to ask was told by somebody else, so that
// what it lacks, and its form, say nothing.
func (f *facts) retold(ask evidence.Ask) bool {
	x := f.host.Find(ask)
	return x != nil && x.Retold != ""
}

// fill puts the models into v.
func (f *facts) fill(v *Verdict) {
	var shown map[string]ollama.ShowReply // nil without details
	for i := range f.host.Exchanges {
		x := &f.host.Exchanges[i]
		if x.Ask != evidence.Show || x.Status != 200 {
			continue
		}
		if r, err := ollama.ParseShow(x.Body); err == nil {
			if shown == nil {
				shown = make(map[string]ollama.ShowReply)
			}
			shown[x.Model] = r
		}
	}
	v.Models = slices.Grow(v.Models, len(f.tags))
	v.Running = slices.Grow(v.Running, len(f.ps))
	for i := range f.tags {
		m := &f.tags[i]
		s := shown[m.Name]
		v.Models = append(v.Models, Model{
			Name: m.Name, Digest: m.Digest, SizeBytes: m.Size.N,
			ParameterSize: m.Details.ParameterSize, Quantization: m.Details.QuantizationLevel,
			Family: m.Details.Family, ModifiedAt: when(m.ModifiedAt), RemoteHost: m.RemoteHost,
			Capabilities: s.Capabilities, ContextLength: s.ContextLength, SystemPromptBytes: s.SystemBytes,
		})
	}
	for i := range f.ps {
		m := &f.ps[i]
		v.Running = append(v.Running, Running{
			Name: m.Name, SizeBytes: m.Size.N, VRAMBytes: m.SizeVRAM.N, ExpiresAt: when(m.ExpiresAt),
		})
	}
	if need := ollama.MinMemory(f.tags, f.ps); need.Bytes > 0 {
		v.Hardware = &Hardware{
			Class: string(ollama.ClassFor(need.Bytes)), MinMemoryBytes: need.Bytes, Basis: need.Basis,
		}
	}
}

func when(t ollama.Time) *time.Time {
	if t.Odd || t.IsZero() {
		return nil
	}
	utc := t.UTC()
	return &utc
}
