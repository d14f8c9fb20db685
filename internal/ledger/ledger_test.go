package ledger_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/ledger"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("GATEHOUSE_TEST_LEDGER"); dir != "" {
		appendForever(dir)
	}
	os.Exit(m.Run())
}

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func request(i int) ledger.Record {
	return ledger.Record{
		Time: noon.Add(time.Duration(i) * time.Second), ID: "req-" + strconv.Itoa(i), Event: ledger.Request,
		Identity: ledger.Identity{Kind: "key", ID: "kX82jdk2ab", Name: "laptop"}, Address: "192.0.2.7", Method: "POST",
		Route: "/api/chat", Power: "infer", Model: "tiny:latest", TokensIn: 12, TokensOut: 19, BytesIn: 300, BytesOut: 4000,
		Status: 200, Duration: 1500 * time.Microsecond, TTFT: 250 * time.Microsecond, Allowed: true,
	}
}

func open(t *testing.T, dir string, o ledger.Options) *ledger.Log {
	t.Helper()
	l, err := ledger.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // again, where the test did
	return l
}

func all(t *testing.T, dir string, q ledger.Query) (list []ledger.Record) {
	t.Helper()
	for r, err := range ledger.Read(dir, q) {
		if err != nil {
			t.Error(err)
			continue
		}
		list = append(list, r)
	}
	return list
}

func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ledger")
	l := open(t, dir, ledger.Options{})
	want := request(1)
	want.Model, want.Reason, want.Error = "näme\"\\\x1b\n", "odd \xff", strings.Repeat("é", 5000)
	for _, r := range []ledger.Record{want, {Time: noon, Event: "start", Detail: "v1"}} {
		if err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := all(t, dir, ledger.Query{})
	if len(got) != 2 {
		t.Fatalf("%d records", len(got))
	}
	want.Seq, want.Reason, want.Error = 1, "odd \uFFFD", strings.Repeat("é", 2048)
	if got[0] != want {
		t.Errorf("\n got %+v\nwant %+v", got[0], want)
	}
	if got[1].Event != "start" || got[1].Seq != 2 || got[1].Detail != "v1" {
		t.Errorf("%+v", got[1])
	}
	for _, name := range []string{"", "lock"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v %v", name, info.Mode(), err)
		}
	}
	if _, err := json.Marshal(got[0]); err != nil {
		t.Error(err)
	}
	if err := l.Append(want); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
}

func TestSeqGoesOn(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		l := open(t, dir, ledger.Options{})
		for i := range 10 {
			if err := l.Append(request(round*10 + i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range all(t, dir, ledger.Query{}) {
		if r.Seq != uint64(i+1) || r.ID != "req-"+strconv.Itoa(i) {
			t.Fatalf("record %d is %d %s", i, r.Seq, r.ID)
		}
	}
}

func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, ledger.Options{})
	if _, err := ledger.Open(dir, ledger.Options{}); !errors.Is(err, ledger.ErrInUse) {
		t.Errorf("a second log opens: %v", err)
	}
}

func segment(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	return names[0]
}

// TestTorn cuts the last line at each of its bytes.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, ledger.Options{})
	for i := range 3 {
		if err := l.Append(request(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(segment(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	line := len(text) - strings.LastIndexByte(strings.TrimSuffix(string(text), "\n"), '\n') - 1
	for cut := 1; cut <= line; cut += 7 {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "2026-11-24.jsonl"), text[:len(text)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, dir, ledger.Options{})
		if want := int64(line - cut); l.Repaired != want {
			t.Errorf("cut %d: %d bytes set aside, want %d", cut, l.Repaired, want)
		}
		if err := l.Append(request(9)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		got := all(t, dir, ledger.Query{})
		if len(got) != 3 || got[2].ID != "req-9" || got[2].Seq != 3 {
			t.Fatalf("cut %d: %d records, the last %+v", cut, len(got), got[len(got)-1])
		}
	}
}

func TestQuery(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, ledger.Options{})
	for i := range 20 {
		r := request(i)
		if i%2 == 0 {
			r.Identity = ledger.Identity{Kind: "key", ID: "other", Name: "ci"}
		}
		if i%5 == 0 {
			r.Allowed, r.Status, r.TokensIn, r.TokensOut = false, 403, 0, 0
		}
		if err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Append(ledger.Record{Time: noon, Event: "stop"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		q    ledger.Query
		want int
	}{
		{ledger.Query{}, 21},
		{ledger.Query{Key: "ci"}, 10},
		{ledger.Query{Key: "kX82jdk2ab"}, 10},
		{ledger.Query{Denied: true}, 4},
		{ledger.Query{Event: "stop"}, 1},
		{ledger.Query{Since: noon.Add(10 * time.Second)}, 10},
		{ledger.Query{Until: noon.Add(10 * time.Second)}, 11},
		{ledger.Query{Since: noon.AddDate(0, 0, 30)}, 0},
	} {
		if got := len(all(t, dir, c.q)); got != c.want {
			t.Errorf("%+v: %d records, want %d", c.q, got, c.want)
		}
	}
	days, err := ledger.Usage(dir, noon, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	want := []ledger.DayUsage{
		{Day: "2026-11-24", ID: "other", Name: "ci", Requests: 10, Denied: 2, TokensIn: 96, TokensOut: 152},
		{Day: "2026-11-24", ID: "kX82jdk2ab", Name: "laptop", Requests: 10, Denied: 2, TokensIn: 96, TokensOut: 152},
	}
	if len(days) != 2 || days[0] != want[0] || days[1] != want[1] {
		t.Errorf("%+v", days)
	}
}

func TestBadLines(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, ledger.Options{})
	if err := l.Append(request(1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	name := segment(t, dir)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := "rubbish\n" + strings.Repeat("x", 1<<19) + "\n{}\n" + string(text)
	if err := os.WriteFile(name, []byte(spoiled), 0o600); err != nil {
		t.Fatal(err)
	}
	var lines []int
	records := 0
	for _, err := range ledger.Read(dir, ledger.Query{}) {
		if bad := new(ledger.LineError); errors.As(err, &bad) {
			lines = append(lines, bad.Line)
		} else if err == nil {
			records++
		}
	}
	if fmt.Sprint(lines) != "[1 2 3]" || records != 1 {
		t.Errorf("bad lines %v, %d records", lines, records)
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, ledger.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan string)
	go func() {
		defer close(got)
		for r, err := range ledger.Follow(ctx, dir, ledger.Query{}) {
			if err != nil {
				t.Error(err)
			}
			select {
			case got <- r.ID:
			case <-ctx.Done():
			}
		}
	}()
	for i := range 5 {
		if err := l.Append(request(i)); err != nil {
			t.Fatal(err)
		}
		if id := <-got; id != "req-"+strconv.Itoa(i) {
			t.Fatalf("followed to %q, want %d", id, i)
		}
	}
	cancel()
	for range got {
	}
}

// appendForever is the child that TestKill kills: it says on standard output
// what was taken, and when.
func appendForever(dir string) {
	l, err := ledger.Open(dir, ledger.Options{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		if err := l.Append(request(i)); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		if i%100 == 0 {
			fmt.Println(i, time.Now().UnixNano())
			time.Sleep(200 * time.Microsecond)
		}
	}
}

// TestKill kills a process that appends, at moments of its own choosing, and
// looks for what it had said was taken more than 1 s before.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), "GATEHOUSE_TEST_LEDGER="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		type said struct{ i, at int64 }
		var heard []said
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var s said
			if _, err := fmt.Sscan(lines.Text(), &s.i, &s.at); err != nil {
				t.Fatal(lines.Text())
			}
			heard = append(heard, s)
			if s.at-heard[0].at > int64(1200+50*round)*int64(time.Millisecond) {
				break
			}
		}
		killed := time.Now().UnixNano()
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // it was killed
		seen := make(map[string]int)
		var last uint64
		for r, err := range ledger.Read(dir, ledger.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			if r.Seq != last+1 {
				t.Fatalf("record %d follows %d", r.Seq, last)
			}
			last = r.Seq
			seen[r.ID]++
		}
		checked := 0
		for _, s := range heard {
			if killed-s.at < int64(time.Second) {
				continue
			}
			checked++
			if id := "req-" + strconv.FormatInt(s.i, 10); seen[id] < round+1 {
				t.Fatalf("round %d: %s was taken %d ms before the end and is not there", round, id, (killed-s.at)/1e6)
			}
		}
		if checked == 0 {
			t.Fatal("nothing was checked")
		}
	}
}

func FuzzRead(f *testing.F) {
	text, err := request(1).MarshalJSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(text, '\n'))
	f.Add([]byte("{\"seq\":1}\n\n{\"time\":\"x\"}\nrubbish"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "2026-11-24.jsonl"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		for r, err := range ledger.Read(dir, ledger.Query{}) {
			if err != nil {
				continue
			}
			// What was read can be written, and reads the same.
			again, err := r.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if !jsontext.Value(again).IsValid() {
				t.Fatalf("%q", again)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	l, err := ledger.Open(b.TempDir(), ledger.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetParallelism(16)
	r := request(1)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Append(r); err != nil {
				b.Error(err)
				return
			}
		}
	})
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, ledger.Options{})
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 200 {
				if err := l.Append(request(g*200 + i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, r := range all(t, dir, ledger.Query{}) {
		seen[r.ID] = true
	}
	if len(seen) != 3200 {
		t.Errorf("%d of 3200 records", len(seen))
	}
}
