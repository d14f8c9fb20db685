//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/ollama/ollamatest"
	"gatehouse/internal/store/postgrestest"
)

// plainly is output without what differs from run to run: times, ids of waves,
// how long something took.
func plainly(out string) string {
	for _, r := range []struct{ what, as string }{
		{`\d{8}T\d{6}Z-[0-9a-z]+`, "ID"},
		{`\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z)?)?`, "TIME"},
		{`\d+(\.\d+)? ?(ms|µs|s)\b`, "TOOK"},
		{`\d+ places a second`, "RATE"},
		{`"(duration|elapsed|seconds|rate|started|ended|every)[a-z_]*": ?"?[0-9.e+-]+`, `"$1":0`},
	} {
		out = regexp.MustCompile(r.what).ReplaceAllString(out, r.as)
	}
	return out
}

// TestPostgresSame makes the same two waves in a file and in PostgreSQL: every
// command says the same of them. Then the file is moved into PostgreSQL, and says
// it to the letter.
func TestPostgresSame(t *testing.T) {
	file, database, moved := filepath.Join(t.TempDir(), "gatehouse.db"), postgrestest.Database(t), postgrestest.Database(t)
	asked := [][]string{
		{"wave", "list"},
		{"wave", "show", "1"},
		{"wave", "show", "last"},
		{"wave", "show", "last", "--json"},
		{"wave", "diff", "1", "2"},
		{"wave", "diff", "1", "2", "--format", "jsonl"},
		{"wave", "trend"},
		{"wave", "hosts", "2", "--format", "jsonl"},
		{"wave", "hosts", "1", "--format", "csv"},
		{"report", "last"},
		{"report", "2", "--markdown", "-"},
		{"report", "2", "--sarif", "-"},
		{"note", "list", "--json"},
		{"key", "list"},
		{"watch", "status"},
	}
	// These are of seconds, or hold more of them than can be told apart.
	exact := [][]string{{"wave", "fixes"}, {"report", "2", "--html", "-", "--title", "a title"}}
	said := make(map[string][]result)
	ask := func(dsn string) (list []result) {
		for _, args := range slices.Concat(asked, exact) {
			list = append(list, on(t, dsn, args...))
		}
		return list
	}
	variants := [2][]string{
		{"ollama/0.5.7", "guard/nginx-basic/0.17.4", "ollama/0.17.4", "honeypot/python-canned", "hostile/terminal-escapes"},
		{"ollama/0.17.4", "ollama/0.5.7", "guard/nginx-basic/0.17.4", "honeypot/python-canned", "alike/llama.cpp-b6000"},
	}
	houses := make([]ollamatest.House, len(variants[0]))
	for _, servers := range variants {
		for i, name := range servers {
			houses[i].Server = ollamatest.Variant(name)
		}
		street, err := ollamatest.Open(houses...)
		if err != nil {
			t.Fatal(err)
		}
		houses = slices.Clone(street.Houses) // the ports stay
		args := []string{"scan", "--save", "--seed", "5", "--concurrency", "1", "--timeout", "2s", "--fail-on", "never", "--quiet"}
		for _, h := range houses {
			args = append(args, h.Addr.String())
		}
		for _, dsn := range []string{file, database} {
			on(t, dsn, args...).exits(t, 0)
		}
		street.Close()
	}
	for _, dsn := range []string{file, database} {
		on(t, dsn, "note", "add", houses[0].Addr.Addr().String(), "--accepted", "J. Doe").exits(t, 0)
		said[dsn] = ask(dsn)
		if r := on(t, dsn, "store", "status", "--json"); r.code != 0 || !strings.Contains(r.out, `"observations": 10`) {
			t.Errorf("%v: %s%s", r, r.out, r.err)
		}
	}
	same := func(got, want []result, to func(string) string) {
		t.Helper()
		for i := range want {
			if a, b := to(want[i].out), to(got[i].out); a != b || want[i].code != got[i].code {
				x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
				for k := range min(len(x), len(y)) {
					if x[k] != y[k] {
						t.Errorf("%v says\n%s\nand %v says\n%s", want[i], x[k], got[i], y[k])
						break
					}
				}
				if len(x) != len(y) {
					t.Errorf("%v says %d lines, and %v %d", want[i], len(x), got[i], len(y))
				}
			}
			if want[i].code != 0 && want[i].code != 3 {
				t.Errorf("%v: %s", want[i], want[i].err)
			}
		}
	}
	same(said[database][:len(asked)], said[file][:len(asked)], plainly)

	r := run(t, "store", "copy", "--from", "sqlite:"+file, "--to", moved)
	r.exits(t, 0)
	if !strings.Contains(r.out, "2 waves") || !strings.Contains(r.out, "both stores are the same") {
		t.Error(r.out)
	}
	same(ask(moved), said[file], func(out string) string { // a report says when it was made
		return regexp.MustCompile(`\d\d:\d\d:\d\d(\.\d+)?`).ReplaceAllString(out, "TIME")
	})
	run(t, "store", "copy", "--from", "sqlite:"+file, "--to", moved).exits(t, 0) // there is nothing to do
	on(t, moved, "wave", "rejudge", "1").exits(t, 0)
	on(t, moved, "forget", houses[0].Addr.Addr().String()).exits(t, 0)
	run(t, "store", "copy", "--from", "sqlite:"+file, "--to", moved).fails(t, 2, "is not empty", "--to")
	on(t, moved, "wave", "drop", "1").exits(t, 0)
	if r := on(t, moved, "store", "status"); r.code != 0 || !strings.Contains(r.out, "PostgreSQL") {
		t.Errorf("%v: %s%s", r, r.out, r.err)
	}
}

// on runs the program on the store at dsn.
func on(t *testing.T, dsn string, args ...string) result {
	t.Helper()
	cut := 1
	if slices.Contains([]string{"wave", "note", "key", "store"}, args[0]) {
		return run(t, slices.Concat(args[:cut], []string{"--store", dsn}, args[cut:])...)
	}
	if slices.Equal(args, []string{"watch", "status"}) {
		cut = 2
	}
	return run(t, slices.Concat(args[:cut], []string{"--store", dsn}, args[cut:])...)
}

// TestPostgresAway kills PostgreSQL (kill -9) in the middle of a scan: one line
// and a hint; the same command goes on, and no host is lost.
func TestPostgresAway(t *testing.T) {
	server := postgrestest.New(t)
	network := netip.MustParsePrefix("127.93.7.0/24")
	variant := ollamatest.Variant("ollama/0.17.4")
	port := netip.MustParseAddrPort(free(t)).Port()
	street, err := ollamatest.Fill(network, port, func(netip.Addr) *ollamatest.Server { return variant })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(street.Close)
	file := filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(file, []byte(server.DSN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"scan", "--save", "--store-file", file, "--seed", "7", "--ports", fmt.Sprint(port), "--rate", "60", "--network-rate", "60",
		"--fail-on", "never", "--quiet", network.String(),
	}
	done := make(chan result)
	go func() { done <- run(t, args...) }()
	for deadline := time.Now().Add(patience); ; {
		if r := run(t, "store", "--store-file", file, "status", "--json"); strings.Contains(r.out, `"observations": `) && !strings.Contains(r.out, `"observations": 0`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is kept")
		}
	}
	server.Kill()
	r := <-done
	r.fails(t, 1, "store postgres://127.0.0.1:", "--store")
	if strings.Contains(r.err, "gatehouse@") {
		t.Errorf("the login is told: %s", r.err)
	}
	run(t, args...).fails(t, 1, "cannot be reached", "the same command goes on")
	server.Start()
	r = run(t, args...)
	r.exits(t, 0)
	if !strings.Contains(r.err, "going on with wave 1") {
		t.Errorf("%s", r.err)
	}
	hosts := make(map[string]bool)
	for _, h := range run(t, "wave", "--store-file", file, "hosts", "1", "--format", "jsonl", "--fail-on", "never").records(t) {
		hosts[h.Address] = true
	}
	if len(hosts) < 254 {
		t.Errorf("%d hosts of 254", len(hosts))
	}
}

// TestPostgresGates has two gates on one store: a key that is made or revoked is
// so at both, within a second, and they go on while PostgreSQL is away.
func TestPostgresGates(t *testing.T) {
	server := postgrestest.New(t)
	t.Setenv("GATEHOUSE_STORE", server.DSN)
	street, err := ollamatest.Open(ollamatest.House{Server: ollamatest.Variant("ollama/0.17.4")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(street.Close)
	upstream := "http://" + street.Houses[0].Addr.String()
	one, two := startGate(t, upstream), startGate(t, upstream)
	if one.token == "" || two.token != "" {
		t.Fatalf("first keys %q and %q, want one", one.token, two.token)
	}
	clients := map[*gate]*http.Client{one: one.client(), two: two.client()}
	code := func(g *gate, token string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url+"/api/tags", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := clients[g].Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	soon := func(token string, want int) {
		t.Helper()
		began := time.Now()
		for _, g := range []*gate{one, two} {
			for code(g, token) != want {
				if time.Since(began) > 5*time.Second {
					t.Fatalf("it is not %d at both gates after %v", want, time.Since(began))
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		t.Logf("%d at both gates after %v", want, time.Since(began))
	}
	soon(one.token, http.StatusOK)
	token := strings.TrimSpace(one.run("key", "add", "laptop"))
	soon(token, http.StatusOK)
	server.Kill()
	soon(token, http.StatusOK)
	server.Start()
	one.run("key", "revoke", "laptop")
	soon(token, http.StatusUnauthorized)
	soon(one.token, http.StatusOK)
}
