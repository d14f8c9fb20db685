//go:build linux

package e2e

import (
	"bufio"
	"database/sql"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
	"gatehouse/internal/store"
)

// TestKilledWave kills -9 a wave that is being saved, at 50 moments of chance:
// five in each of ten waves, each of which goes on to its end and then has the
// rows of one that nobody disturbed. What had been written out before the kill
// was kept: it is not asked again.
func TestKilledWave(t *testing.T) {
	const waves, kills, places = 10, 5, 2000
	dir := t.TempDir()
	scope, _ := writeWorld(t, dir)
	databases := filepath.Join(dir, "databases")
	run(t, "geo", "--state-dir", databases, "update", "--country", filepath.Join(dir, "country.csv"), "--asn", filepath.Join(dir, "asn.csv")).exits(t, 0)
	net := newInternet(t)
	net.becomes(1)

	var list []string
	for addr, h := range internetAt(1) {
		if h.kind != "silent" {
			list = append(list, addr.String())
		}
	}
	slices.Sort(list)
	list = append(list[:places], addressIn(0, inNetwork).String()) // where nobody is
	targets := filepath.Join(dir, "few")
	if err := os.WriteFile(targets, []byte(strings.Join(list, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	// At the slower pace the wave takes longer than from one mark of how far it
	// got to the next.
	scan := func(state string, pace int) []string {
		return []string{
			"scan", "--scope", scope, "--targets", targets, "--save", "--state-dir", state, "--geo", filepath.Join(databases, "geo"), "--seed", "5",
			"--rate", fmt.Sprint(pace), "--network-rate", "1000000", "--concurrency", "200", "--timeout", "10s", "--max-time", "60s",
			"--fail-on", "never", "--format", "jsonl", "--quiet",
		}
	}
	whole := filepath.Join(dir, "undisturbed")
	r := runVia(t, net.enter(), scan(whole, 100_000)...)
	r.exits(t, 0)
	if n := strings.Count(r.out, "\n"); n != places {
		t.Fatalf("%d hosts, want %d", n, places)
	}
	want := dump(t, whole)
	if len(want) < 3*places {
		t.Fatalf("%d rows of %d hosts", len(want), places)
	}
	if !slices.ContainsFunc(want, func(row string) bool { return strings.Contains(row, `"country":"DE"`) }) {
		t.Fatal("no record has an owner")
	}

	seed := rand.Uint64()
	t.Logf("seed %d; undisturbed in %v", seed, r.took)
	rng := rand.New(rand.NewPCG(seed, 9))
	killed := 0
	for w := range waves {
		state := filepath.Join(dir, fmt.Sprint("killed-", w))
		pace := []int{100_000, 1200}[w%2]
		moments := make([]int, kills)
		for k := range moments {
			moments[k] = rng.IntN(places * 95 / 100)
		}
		slices.Sort(moments)
		told := make(map[string]string) // a host's line as it was first written
		for _, at := range moments {
			lines, wasKilled := runUntil(t, net.enter(), scan(state, pace), at)
			if wasKilled {
				killed++
			}
			for addr, line := range lines {
				if told[addr] != "" && told[addr] != line {
					t.Fatalf("seed %d: %s was kept, and is another thing now:\n%s\n%s", seed, addr, told[addr], line)
				}
				told[addr] = line
			}
		}
		r := runVia(t, net.enter(), scan(state, pace)...)
		r.exits(t, 0)
		final := make(map[string]string)
		for line := range strings.Lines(r.out) {
			addr := addressOf(t, line)
			if final[addr] != "" {
				t.Errorf("seed %d: %s is told of twice", seed, addr)
			}
			final[addr] = line
		}
		for addr, line := range told {
			if final[addr] != line {
				t.Errorf("seed %d: %s was kept, and is another thing in the end:\n%s\n%s", seed, addr, line, final[addr])
			}
		}
		got := dump(t, state)
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || got[i] != want[i] {
				t.Fatalf("seed %d, killed at %v: %d rows, undisturbed %d; the first that differs:\n%.600s\nundisturbed:\n%.600s",
					seed, moments, len(got), len(want), at(got, i), at(want, i))
			}
		}
		if err := os.RemoveAll(state); err != nil {
			t.Fatal(err)
		}
	}
	if killed != waves*kills {
		t.Errorf("seed %d: %d kills, want %d: the other runs came to their end before", seed, killed, waves*kills)
	}
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "none"
}

func addressOf(t *testing.T, line string) string {
	t.Helper()
	var r struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	return r.Address
}

// runUntil runs the program and kills it as soon as it has written so many whole
// lines, which it returns by their address.
func runUntil(t *testing.T, via, args []string, lines int) (told map[string]string, killed bool) {
	t.Helper()
	words := slices.Concat(via, []string{gatehouse}, args)
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told = make(map[string]string)
	read := bufio.NewReader(out)
	for n := 0; ; n++ {
		if n == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		line, err := read.ReadString('\n')
		if err != nil {
			break
		}
		told[addressOf(t, line)] = line
	}
	_ = cmd.Wait() // it was killed
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return told, status.Signaled() && status.Signal() == syscall.SIGKILL
}

// dump is every row of a store in words that hang neither on the time nor on the
// order in which hosts came.
func dump(t *testing.T, state string) (rows []string) {
	t.Helper()
	path := filepath.Join(state, "gatehouse.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	query := func(q string, row func(*sql.Rows) (string, error)) {
		t.Helper()
		found, err := db.QueryContext(t.Context(), q)
		if err != nil {
			t.Fatalf("%s: %v", q, err)
		}
		defer found.Close()
		for found.Next() {
			text, err := row(found)
			if err != nil {
				t.Fatalf("%s: %v", q, err)
			}
			rows = append(rows, text)
		}
		if err := found.Err(); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	query("PRAGMA integrity_check", func(r *sql.Rows) (text string, err error) { return text, r.Scan(&text) })
	for _, table := range []string{"looks", "notes", "hosts", "said", "waves"} {
		query("SELECT count(*) FROM "+table, func(r *sql.Rows) (string, error) {
			var n int
			err := r.Scan(&n)
			return fmt.Sprintf("%s: %d rows", table, n), err
		})
	}
	names := make(map[int]string)
	query("SELECT bit, id FROM findings", func(r *sql.Rows) (string, error) {
		var bit int
		var id string
		err := r.Scan(&bit, &id)
		names[bit] = id
		return "finding " + id, err
	})
	query("SELECT scope, source, plan, covers, seed, looks, json_remove(method, '$.started', '$.ended'), json_remove(summary, '$.started', '$.ended', '$.wave'), tally, watched, json_extract(mark, '$.at'), json_extract(mark, '$.counts') FROM waves",
		func(r *sql.Rows) (string, error) {
			var cells [12]sql.NullString
			to := make([]any, len(cells))
			for i := range cells {
				to[i] = &cells[i]
			}
			err := r.Scan(to...)
			for _, i := range []int{6, 7, 8, 11} { // whatever the order in which objects were written
				var v any
				if cells[i].String == "" {
					continue
				}
				if err := json.Unmarshal([]byte(cells[i].String), &v); err != nil {
					return "", err
				}
				text, err := json.Marshal(v, json.Deterministic(true))
				if err != nil {
					return "", err
				}
				cells[i].String = string(text)
			}
			return fmt.Sprintf("wave %v", cells), err
		})
	query("SELECT address, port, name, path, pos, outcome, severity, findings, state, version, country, asn, provider FROM seen JOIN hosts ON hosts.id = seen.host", func(r *sql.Rows) (string, error) {
		var addr []byte
		var port, pos, outcome, severity, mask, state, asn int64
		var name, path, version, country, provider string
		err := r.Scan(&addr, &port, &name, &path, &pos, &outcome, &severity, &mask, &state, &version, &country, &asn, &provider)
		found := []string{}
		for bit, id := range names {
			if mask>>bit&1 != 0 {
				found = append(found, id)
			}
		}
		slices.Sort(found)
		return fmt.Sprint("seen ", hex.EncodeToString(addr), port, name, path, pos, outcome, severity, found, state, version, country, asn, provider), err
	})

	st, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for r, err := range st.Records(1) {
		if err != nil {
			t.Fatal(err)
		}
		r.Wave, r.ObservedAt = "", time.Time{}
		text, err := json.Marshal(&r, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, "record "+string(text))
	}
	rules := finding.Rules{Advisories: ollama.Default()}
	if _, err := st.Rejudge(1, func(h *evidence.Host) finding.Verdict {
		var said strings.Builder
		for i := range h.Exchanges {
			x := &h.Exchanges[i]
			fmt.Fprintf(&said, " %v %d %q", x.Ask, x.Status, x.Body)
		}
		rows = append(rows, fmt.Sprint("evidence ", netip.AddrPortFrom(h.Address, h.Port), h.Reach, said.String()))
		return rules.Judge(h)
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(rows)
	return rows
}
