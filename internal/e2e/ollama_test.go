//go:build linux

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"gatehouse/internal/ollama/realollama"
)

// What a scan asks, in this order: nothing else, and nothing twice.
var (
	reads   = []string{"GET /", "GET /api/version", "GET /api/tags", "GET /api/ps"}
	details = []string{"POST /api/show"}
	proofs  = []string{
		"GET /api/version", // under another Host
		"GET /api/version", // from another Origin
		"GET /gatehouse-probe-no-such-path",
		"GET /v1/models/gatehouse-probe-no-such-model",
		"POST /api/show", "POST /api/generate", "POST /v1/chat/completions",
		"POST /api/pull", "POST /api/create", "DELETE /api/delete",
	}
	everything = slices.Concat(reads, details, proofs)
)

var (
	reachable = powers{Hello: "proven", Read: "proven", Infer: "reachable", Manage: "reachable", Account: "reachable"}
	proven    = powers{Hello: "proven", Read: "proven", Infer: "proven", Manage: "proven", Account: "reachable"}
	denied    = powers{Hello: "denied", Read: "denied", Infer: "denied", Manage: "denied", Account: "denied"}
	unknown   = powers{Hello: "unknown", Read: "unknown", Infer: "unknown", Manage: "unknown", Account: "unknown"}
)

// TestOpen scans a real Ollama that anybody can reach.
func TestOpen(t *testing.T) {
	for name, opts := range map[string][]realollama.Option{"IPv4": nil, "IPv6": {realollama.IPv6()}} {
		t.Run(name, func(t *testing.T) {
			s := realollama.Start(t, opts...)
			s.Load(t)
			for _, c := range []struct {
				name     string
				args     []string
				powers   powers
				findings []string
				asked    []string
			}{
				{
					"reads", nil, reachable,
					[]string{"ollama-open", "ollama-cleartext"},
					reads,
				},
				{
					"prove",
					[]string{"--prove", "--details"},
					proven,
					[]string{"ollama-open", "ollama-manage-open", "ollama-infer-open", "ollama-cleartext", "ollama-prompt-readable"},
					everything,
				},
			} {
				t.Run(c.name, func(t *testing.T) {
					before := requests(t, s)
					r := run(t, append([]string{"scan", s.AddrPort.String(), "--format", "jsonl"}, c.args...)...)
					r.exits(t, 3)
					if asked := requests(t, s)[len(before):]; !slices.Equal(asked, c.asked) {
						t.Errorf("asked %q, want %q", asked, c.asked)
					}

					got := r.record(t)
					if got.Outcome != "open" || got.Identity != (product{"ollama", realollama.Version}) {
						t.Errorf("%s, %v, want an open Ollama %s", got.Outcome, got.Identity, realollama.Version)
					}
					if got.Address != s.AddrPort.Addr().String() || got.Port != s.AddrPort.Port() || got.TLS != nil {
						t.Errorf("%s port %d, TLS %v, want %s in the clear", got.Address, got.Port, got.TLS, s.AddrPort)
					}
					if got.Powers != c.powers {
						t.Errorf("powers %+v, want %+v", got.Powers, c.powers)
					}
					holds(t, s, got)
					if !slices.Equal(got.ids(), c.findings) {
						t.Errorf("findings %q, want %q", got.ids(), c.findings)
					}
					for _, f := range got.Findings {
						if len(f.Evidence) == 0 || !strings.Contains(f.Remedy, "gatehouse scan") {
							t.Errorf("%s: evidence %q, remedy %q", f.ID, f.Evidence, f.Remedy)
						}
						for _, line := range f.Evidence {
							witness(t, s, line)
						}
					}
					if strings.Contains(r.out+r.err, "doorman") {
						t.Errorf("the system prompt was printed:\n%s%s", r.out, r.err)
					}
				})
			}
		})
	}
}

// holds compares the models in a record with what the server itself says.
func holds(t *testing.T, s *realollama.Server, got record) {
	t.Helper()
	type entry struct {
		Name     string
		Digest   string
		Size     int64
		VRAM     int64     `json:"size_vram"`
		Modified time.Time `json:"modified_at"`
		Expires  time.Time `json:"expires_at"`
		Details  struct {
			Parameters   string `json:"parameter_size"`
			Quantization string `json:"quantization_level"`
			Family       string
		}
	}
	ask := func(path string) []entry {
		t.Helper()
		var list struct{ Models []entry }
		reply := s.Ask(t, realollama.Request{Method: "GET", Path: path})
		if err := json.Unmarshal(reply.Body, &list, json.MatchCaseInsensitiveNames(true)); err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
		if len(list.Models) == 0 {
			t.Fatalf("GET %s: no models", path)
		}
		return list.Models
	}
	var models []model
	for _, e := range ask("/api/tags") {
		models = append(models, model{
			e.Name, e.Digest, e.Size, e.Details.Parameters, e.Details.Quantization, e.Details.Family, e.Modified.UTC(),
		})
	}
	if !reflect.DeepEqual(got.Models, models) {
		t.Errorf("models %+v, want %+v", got.Models, models)
	}
	var running []loaded
	for _, e := range ask("/api/ps") {
		running = append(running, loaded{e.Name, e.Size, e.VRAM, e.Expires.UTC()})
	}
	if !reflect.DeepEqual(got.Running, running) {
		t.Errorf("running %+v, want %+v", got.Running, running)
	}
}

var (
	// quoted is an evidence line that quotes an answer.
	quoted = regexp.MustCompile(`^(\S+) (\S+) -> (\d+) (.*)$`)
	// prompted is the one that must not.
	prompted = regexp.MustCompile(`^POST /api/show "` + regexp.QuoteMeta(realollama.Model) + `" -> 200, a system prompt of 37 bytes \(not kept\)$`)
)

// witness asks the server what an evidence line says was asked, and holds the
// line to the answer's very bytes.
func witness(t *testing.T, s *realollama.Server, line string) {
	t.Helper()
	if prompted.MatchString(line) {
		return
	}
	m := quoted.FindStringSubmatch(line)
	if m == nil {
		t.Errorf("evidence %q quotes no answer", line)
		return
	}
	i := slices.IndexFunc(realollama.Harmless, func(r realollama.Request) bool {
		return r.Method == m[1] && r.Path == m[2] && r.Body == "" && r.Host == "" && r.Header == nil
	})
	if i < 0 {
		t.Errorf("evidence %q of a request that is not known to be harmless", line)
		return
	}
	reply := s.Ask(t, realollama.Harmless[i])
	said, cut := strings.CutSuffix(m[4], "…")
	if m[3] != strconv.Itoa(reply.Status) || !strings.HasPrefix(string(reply.Body), said) || !cut && said != string(reply.Body) {
		t.Errorf("evidence %q, but the server answers %d %s", line, reply.Status, reply.Body)
	}
}

// ginLine is a request in a real Ollama's log.
var ginLine = regexp.MustCompile(`(?m)^\[GIN\] .*\| (\S+) +"(.*)"$`)

// requests returns what s was asked so far, by its own log.
func requests(t *testing.T, s *realollama.Server) []string {
	t.Helper()
	log, err := os.ReadFile(s.Log)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	for _, m := range ginLine.FindAllStringSubmatch(string(log), -1) {
		asked = append(asked, m[1]+" "+m[2])
	}
	return asked
}

// TestBehindNginx scans a real Ollama with an nginx in front of it.
func TestBehindNginx(t *testing.T) {
	s := realollama.Start(t)
	// The recipes that rewrite Host undo Ollama's check of it.
	open := []string{"ollama-open", "ollama-manage-open", "ollama-rebinding", "ollama-infer-open"}
	const clear, prompt = "ollama-cleartext", "ollama-prompt-readable"
	names := []string{"gate.example", "*.gate.example"}
	for _, c := range []struct {
		name     string
		opts     []realollama.NginxOption
		target   func(*realollama.Nginx) string
		code     int
		outcome  string
		product  product
		powers   powers
		findings []string
		asked    []string // of the Ollama behind
	}{
		{
			"password", nil, bare,
			0, "guarded",
			product{"ollama", ""},
			denied,
			[]string{clear},
			nil,
		},
		{
			"password and TLS",
			[]realollama.NginxOption{realollama.TLS(names...)},
			bare,
			0, "guarded",
			product{"ollama", ""},
			denied,
			[]string{},
			nil,
		},
		{
			"password under a path",
			[]realollama.NginxOption{realollama.Under("/ollama")},
			whole,
			0, "guarded",
			product{"ollama", ""},
			denied,
			[]string{clear},
			nil,
		},
		{
			"no password",
			[]realollama.NginxOption{realollama.NoPassword()},
			bare,
			3, "open",
			product{"ollama", realollama.Version},
			proven, append(slices.Clone(open), clear, prompt), everything,
		},
		{
			"TLS",
			[]realollama.NginxOption{realollama.NoPassword(), realollama.TLS(names...)},
			bare,
			3, "open",
			product{"ollama", realollama.Version},
			proven, append(slices.Clone(open), prompt), everything,
		},
		{
			"TLS by URL",
			[]realollama.NginxOption{realollama.NoPassword(), realollama.TLS(names...)},
			whole,
			3, "open",
			product{"ollama", realollama.Version},
			proven, append(slices.Clone(open), prompt), everything,
		},
		{
			"under a path",
			[]realollama.NginxOption{realollama.NoPassword(), realollama.Under("/ollama")},
			whole,
			3, "open",
			product{"ollama", realollama.Version},
			proven, append(slices.Clone(open), clear, prompt), everything,
		},
		{
			"beside the path",
			[]realollama.NginxOption{realollama.NoPassword(), realollama.Under("/ollama")},
			bare,
			0, "other",
			product{},
			unknown,
			[]string{},
			nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := realollama.StartNginx(t, s.URL, c.opts...)
			before := requests(t, s)
			target := c.target(n)
			r := run(t, "scan", target, "--prove", "--details", "--format", "jsonl")
			r.exits(t, c.code)
			if asked := requests(t, s)[len(before):]; !slices.Equal(asked, c.asked) {
				t.Errorf("the Ollama behind was asked %q, want %q", asked, c.asked)
			}
			got := r.record(t)
			if got.Outcome != c.outcome || got.Identity != c.product || got.Powers != c.powers {
				t.Errorf("%s (%s), %v, %+v, want %s, %v, %+v",
					got.Outcome, got.Reason, got.Identity, got.Powers, c.outcome, c.product, c.powers)
			}
			if !slices.Equal(got.ids(), c.findings) {
				t.Errorf("findings %q, want %q", got.ids(), c.findings)
			}
			if u, err := url.Parse(target); err == nil && got.Path != u.Path {
				t.Errorf("path %q of %s", got.Path, target)
			}
			if c.outcome == "guarded" && len(got.Models)+len(got.Running) > 0 {
				t.Errorf("models through a lock: %+v", got)
			}
			shows(t, n, got.TLS)
		})
	}
}

// bare and whole are the two ways to name what nginx serves.
func bare(n *realollama.Nginx) string  { return n.AddrPort.String() }
func whole(n *realollama.Nginx) string { return n.URL }

// shows compares what was kept of a certificate with the certificate.
func shows(t *testing.T, n *realollama.Nginx, got *tls) {
	t.Helper()
	if n.Certificate == nil {
		if got != nil {
			t.Errorf("TLS %+v where there is none", got)
		}
		return
	}
	if got == nil {
		t.Fatal("no TLS")
	}
	sum := sha256.Sum256(n.Certificate.Raw)
	want := tls{
		Version: "TLS 1.3", Names: append(slices.Clone(n.Certificate.DNSNames), "127.0.0.1"),
		Subject: n.Certificate.Subject.String(), Issuer: n.Certificate.Issuer.String(),
		NotBefore: n.Certificate.NotBefore, NotAfter: n.Certificate.NotAfter,
		SHA256: hex.EncodeToString(sum[:]), Invalid: got.Invalid,
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("TLS %+v, want %+v", *got, want)
	}
	if !strings.Contains(got.Invalid, "unknown authority") {
		t.Errorf("invalid is %q, and nobody has signed it", got.Invalid)
	}
}

// TestBinding scans real Ollamas for what a web page could reach, as it depends
// on the address they are bound to and the origins they allow.
func TestBinding(t *testing.T) {
	everywhere, anyOrigin := realollama.Everywhere(), realollama.Env("OLLAMA_ORIGINS=*")
	for name, c := range map[string]struct {
		opts []realollama.Option
		want []string
	}{
		"loopback":               {nil, nil},
		"any origin":             {[]realollama.Option{anyOrigin}, []string{"ollama-any-origin"}},
		"everywhere":             {[]realollama.Option{everywhere}, []string{"ollama-rebinding"}},
		"everywhere, any origin": {[]realollama.Option{everywhere, anyOrigin}, []string{"ollama-any-origin", "ollama-rebinding"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := realollama.Start(t, c.opts...)
			r := run(t, "scan", s.AddrPort.String(), "--prove", "--format", "jsonl")
			r.exits(t, 3)
			got := r.record(t)
			var found []string
			for _, f := range got.Findings {
				if f.ID != "ollama-rebinding" && f.ID != "ollama-any-origin" {
					continue
				}
				found = append(found, f.ID)
				if f.Severity != "high" || len(f.Evidence) != 1 || !strings.Contains(f.Evidence[0], "gatehouse-probe.invalid") {
					t.Errorf("%+v, want high and one line that names the stranger", f)
				}
			}
			if !slices.Equal(found, c.want) {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
}

// TestCheck has `gatehouse check` look at the machine that a real Ollama is on:
// a network namespace with loopback and one address on a local network.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name     string
		option   realollama.Option
		lan      string // outcome on the local network
		code     int
		says     string
		findings bool
	}{
		{"everywhere", realollama.Everywhere(), "open", 3, "OPEN TO THE NETWORK", true},
		{"loopback", realollama.Apart(), "refused", 0, "LOCAL ONLY", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := realollama.Start(t, c.option)
			via := s.Enter(t)
			left := trace(t, s, func() {
				r := runVia(t, via, "check", "--format", "jsonl")
				r.exits(t, c.code)
				outcomes := make(map[string]string)
				for _, rec := range r.records(t) {
					if rec.Port != 11434 {
						t.Errorf("looked at port %d of %s", rec.Port, rec.Address)
					}
					outcomes[rec.Address] = rec.Outcome
				}
				if outcomes["127.0.0.1"] != "open" || outcomes[realollama.LAN.String()] != c.lan {
					t.Errorf("outcomes %v, want open on 127.0.0.1 and %s on %s", outcomes, c.lan, realollama.LAN)
				}
				delete(outcomes, "127.0.0.1")
				delete(outcomes, realollama.LAN.String())
				delete(outcomes, "::1") // where the kernel has IPv6
				if len(outcomes) > 0 {
					t.Errorf("looked at %v, which are no addresses of this machine", outcomes)
				}

				r = runVia(t, via, "check")
				r.exits(t, c.code)
				if !strings.Contains(r.out, c.says) || strings.Contains(r.out, "ollama-open") != c.findings {
					t.Errorf("does not say %s, or findings that it should not:\n%s", c.says, r.out)
				}
				for _, open := range []string{"127.0.0.1", realollama.LAN.String()} {
					want := open == "127.0.0.1" || c.lan == "open"
					if listed := regexp.MustCompile(`(?m)^ +open +` + regexp.QuoteMeta(open+":11434") + ` `).MatchString(r.out); listed != want {
						t.Errorf("lists %s as open: %v, want %v\n%s", open, listed, want, r.out)
					}
				}
			})
			if left != "" {
				t.Errorf("left a trace:\n%s", left)
			}
		})
	}
}

// trace returns what a real Ollama has in its folders, lists, memory and log
// after do that it had not before, or the other way round.
func trace(t *testing.T, s *realollama.Server, do func()) string {
	t.Helper()
	before := s.Snapshot(t)
	do()
	return before.Diff(s.Snapshot(t))
}

// TestNoTrace holds the promise to change nothing: of a scan with everything
// asked, run three times, the real Ollama keeps its log's request lines and
// nothing else.
func TestNoTrace(t *testing.T) {
	for _, c := range []struct {
		name   string
		opts   []realollama.Option
		loaded bool
	}{
		{"idle", nil, false},
		{"loaded", nil, true},
		{"everywhere, any origin", []realollama.Option{realollama.Everywhere(), realollama.Env("OLLAMA_ORIGINS=*")}, true},
		{"empty", []realollama.Option{realollama.Empty()}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := realollama.Start(t, c.opts...)
			if c.loaded {
				s.Load(t)
			}
			want := everything
			if c.name == "empty" {
				want = slices.Concat(reads, proofs) // no model to ask the details of
			}
			var asked []string
			left := trace(t, s, func() {
				before := requests(t, s)
				for range 3 {
					run(t, "scan", s.AddrPort.String(), "--prove", "--details", "--format", "jsonl").exits(t, 3)
				}
				asked = requests(t, s)[len(before):]
			})
			if left != "" {
				t.Errorf("left a trace:\n%s", left)
			}
			if !slices.Equal(asked, slices.Repeat(want, 3)) {
				t.Errorf("the log has %q, want three times %q", asked, want)
			}
		})
	}
}

// TestTraceShows is the proof that TestNoTrace can fail.
func TestTraceShows(t *testing.T) {
	s := realollama.Start(t)
	left := trace(t, s, func() {
		reply := s.Ask(t, realollama.Request{
			Method: "POST", Path: "/api/copy", Body: fmt.Sprintf(`{"source":%q,"destination":"copied"}`, realollama.Model),
		})
		if reply.Status != 200 {
			t.Fatalf("POST /api/copy: %d %s", reply.Status, reply.Body)
		}
	})
	for _, sign := range []string{"+ models/manifests/registry.ollama.ai/library/copied/latest ", `"name":"copied:latest"`} {
		if !strings.Contains(left, sign) {
			t.Errorf("the trace of a copy lacks %q:\n%s", sign, left)
		}
	}
}
