package ledger_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/ledger"
)

func TestMain(m *testing.M) {
	dir := os.Getenv("GATEHOUSE_TEST_DIR")
	switch os.Getenv("GATEHOUSE_TEST_LEDGER") {
	case "append":
		appendForever(dir)
	case "fill":
		fill(dir)
		os.Exit(0)
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
	want.Seq, want.Reason, want.Error = 1, "odd \uFFFD", strings.Repeat("é", 512)
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

// three is the text of a segment with three records.
func three(t *testing.T) []byte {
	t.Helper()
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
	return text
}

const today = "2026-11-24.jsonl"

func write(t *testing.T, dir, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTorn cuts the last line at each of its bytes. What was cut off is beside;
// a line that only lacks its end is whole.
func TestTorn(t *testing.T) {
	text := three(t)
	line := len(text) - bytes.LastIndexByte(text[:len(text)-1], '\n') - 1
	for cut := 1; cut <= line; cut += 7 {
		dir := t.TempDir()
		write(t, dir, today, text[:len(text)-cut])
		l := open(t, dir, ledger.Options{})
		torn := line - cut
		if cut == 1 {
			torn = 0
		}
		if l.Repaired != int64(torn) {
			t.Errorf("cut %d: %d bytes set aside, want %d", cut, l.Repaired, torn)
		}
		if err := l.Append(request(9)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		want := "1 request req-0, 2 request req-1, 3 request req-9, "
		switch {
		case cut == 1:
			want = "1 request req-0, 2 request req-1, 3 request req-2, 4 request req-9, "
		case torn > 0:
			want = "1 request req-0, 2 request req-1, 3 repair , 4 request req-9, "
		}
		got := ""
		for _, r := range all(t, dir, ledger.Query{}) {
			got += fmt.Sprint(r.Seq, " ", r.Event, " ", r.ID, ", ")
		}
		if got != want {
			t.Errorf("cut %d:\n got %s\nwant %s", cut, got, want)
		}
		aside, err := os.ReadFile(filepath.Join(dir, today+".torn"))
		if torn == 0 {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("cut %d: nothing was torn, and beside is %q", cut, aside)
			}
		} else if string(aside) != string(text[len(text)-line:len(text)-cut])+"\n" {
			t.Errorf("cut %d: set aside is %q, %v", cut, aside, err)
		}
	}
}

// TestUnreadableEnd: lines that a failing disk spoiled do not keep the gate
// shut, and no number comes twice.
func TestUnreadableEnd(t *testing.T) {
	text := three(t)
	third := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
	for name, c := range map[string]struct {
		segments []string
		want     uint64
	}{
		"a spoiled line":      {[]string{string(text[:third]) + "rubbish\n"}, 4},
		"two":                 {[]string{string(text[:third]) + "\x00\x00\n{}\n"}, 5},
		"a spoiled segment":   {[]string{string(text), "x\ny\n"}, 6},
		"an empty segment":    {[]string{string(text), ""}, 4},
		"a torn segment":      {[]string{string(text), "{\"seq"}, 5}, // 4 is the account of that
		"nothing can be read": {[]string{"x\n"}, 2},
		"a line with no end":  {[]string{strings.Repeat("x", 1<<19) + "\n"}, 2},
	} {
		dir := t.TempDir()
		for i, text := range c.segments {
			write(t, dir, fmt.Sprintf("2026-11-%d.jsonl", 23+i), []byte(text))
		}
		l := open(t, dir, ledger.Options{})
		if err := l.Append(request(9)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		var last ledger.Record
		for r, err := range ledger.Read(dir, ledger.Query{}) {
			if err == nil {
				last = r
			}
		}
		if last.ID != "req-9" || last.Seq != c.want {
			t.Errorf("%s: goes on with %s, number %d, want %d", name, last.ID, last.Seq, c.want)
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

// spoiled is a ledger of two segments with lines that cannot be read between
// those that can.
func spoiled(t *testing.T) (dir string, bad int) {
	t.Helper()
	dir = t.TempDir()
	seq := uint64(0)
	for day, count := range []int{40, 30} {
		var lines []string
		for i := range count {
			seq++
			r := request(100*day + i)
			r.Seq = seq
			line, err := r.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, string(line)+"\n")
		}
		for i, junk := range []string{"rubbish\n", strings.Repeat("x", 1<<19) + "\n", "\n", "{}\n", "\x00\xff\n"} {
			lines = slices.Insert(lines, 4*i, junk)
			bad++
		}
		text := strings.Join(lines, "") + `{"seq":99,"time` // one that is being written
		write(t, dir, fmt.Sprintf("2026-11-%d.jsonl", 24+day), []byte(text))
	}
	return dir, bad
}

type seen struct {
	record ledger.Record
	err    string
}

func collect(records iter.Seq2[ledger.Record, error]) (list []seen) {
	for r, err := range records {
		s := seen{record: r}
		if err != nil {
			s.err = err.Error()
		}
		list = append(list, s)
	}
	return list
}

func TestBadLines(t *testing.T) {
	dir, want := spoiled(t)
	bad, records := 0, 0
	for _, err := range ledger.Read(dir, ledger.Query{}) {
		line := new(ledger.LineError)
		switch {
		case errors.As(err, &line):
			if line.Line != bad%5*4+1 || line.File != fmt.Sprintf("2026-11-%d.jsonl", 24+bad/5) || errors.Unwrap(err) == nil {
				t.Errorf("bad line %d is %v", bad, err)
			}
			bad++
		case err != nil:
			t.Error(err)
		default:
			records++
		}
	}
	if bad != want || records != 70 {
		t.Errorf("%d bad lines and %d records, want %d and 70", bad, records, want)
	}
	days, err := ledger.Usage(dir, time.Time{}, time.Time{})
	if err == nil || len(days) != 1 || days[0].Requests != 70 || strings.Count(err.Error(), "\n") > 11 {
		t.Errorf("%+v, %v", days, err)
	}
}

// TestLast holds what is read from the end against what is read from the
// beginning.
func TestLast(t *testing.T) {
	dir, _ := spoiled(t)
	for _, q := range []ledger.Query{{}, {Key: "nobody"}, {Since: noon.Add(20 * time.Second)}, {Since: noon.AddDate(0, 0, 1)}, {Until: noon.Add(110 * time.Second)}} {
		everything := q
		everything.Since = time.Time{}
		all := collect(ledger.Read(dir, everything))
		all = slices.DeleteFunc(all, func(s seen) bool { return s.err == "" && s.record.Time.Before(q.Since) })
		if q.Since.After(noon.AddDate(0, 0, 1).Add(-time.Second)) {
			all = slices.DeleteFunc(all, func(s seen) bool { return strings.HasPrefix(s.err, "2026-11-24") })
		}
		for q.Last = 1; q.Last < 90; q.Last += 4 {
			got, want := collect(ledger.Read(dir, q)), all[max(0, len(all)-q.Last):]
			if !slices.Equal(got, want) {
				t.Fatalf("%+v:\n got %v\nwant %v", q, got, want)
			}
		}
	}
}

// TestWindow holds that lines passed over by their time are the right ones, to
// the nanosecond, and that those that cannot be read are told all the same.
func TestWindow(t *testing.T) {
	dir, bad := spoiled(t)
	everything := collect(ledger.Read(dir, ledger.Query{}))
	for _, at := range []time.Duration{0, 1, 999, 1000, time.Second - 1, time.Second, 20*time.Second + 500, 110 * time.Second} {
		cut := noon.Add(at)
		before := collect(ledger.Read(dir, ledger.Query{Until: cut}))
		after := collect(ledger.Read(dir, ledger.Query{Since: cut}))
		if len(before)+len(after) != len(everything)+bad {
			t.Errorf("at %v: %d before and %d after, of %d", at, len(before), len(after), len(everything))
		}
		for _, s := range before {
			if s.err == "" && !s.record.Time.Before(cut) {
				t.Errorf("%v is not before %v", s.record.Time, cut)
			}
		}
		for _, s := range after {
			if s.err == "" && s.record.Time.Before(cut) {
				t.Errorf("%v is before %v", s.record.Time, cut)
			}
		}
	}
}

// TestStrangers: who only claims a key does not count as its holder.
func TestStrangers(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, ledger.Options{})
	for i := range 50 {
		r := request(i)
		r.Identity = ledger.Identity{ID: "made-up-" + strconv.Itoa(i)}
		if i%2 == 0 {
			r.Identity.ID = "kX82jdk2ab"
		}
		r.Allowed = false
		if err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Append(request(1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	days, err := ledger.Usage(dir, noon, noon.AddDate(0, 0, 1))
	if err != nil || len(days) != 1 || days[0].Requests != 1 || days[0].Denied != 0 {
		t.Errorf("%+v, %v", days, err)
	}
	if got := len(all(t, dir, ledger.Query{Key: "kX82jdk2ab", Denied: true})); got != 25 {
		t.Errorf("%d tries of the key are told, want 25", got)
	}
}

// TestLongest is a record with everything as long as can be: its line is one
// that is read again.
func TestLongest(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, ledger.Options{})
	long := strings.Repeat("\x01", 1<<20)
	want := ledger.Record{
		Time: noon, ID: long, Event: long, Identity: ledger.Identity{Kind: long, ID: long, Name: long}, Address: long, Method: long,
		Route: long, Power: long, Model: long, Digest: long, Reason: long, Error: long, Detail: long,
		TokensIn: math.MaxInt64, TokensOut: math.MinInt64, BytesIn: math.MaxInt64, BytesOut: math.MaxInt64, Status: math.MaxInt,
	}
	if err := l.Append(want); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := all(t, dir, ledger.Query{})
	if len(got) != 1 || got[0].Error != long[:1024] || got[0].TokensOut != math.MinInt64 {
		t.Errorf("%d records", len(got))
	}
}

// TestNoFiles reads what is not there, and what is no ledger.
func TestNoFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	for _, err := range ledger.Read(dir, ledger.Query{}) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	if days, err := ledger.Usage(dir, noon, noon); err != nil || len(days) != 0 {
		t.Errorf("%v %v", days, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "2026-11-24.jsonl.torn", []byte("{"))
	write(t, dir, "notes.jsonl", []byte("not ours"))
	if got := collect(ledger.Read(dir, ledger.Query{})); len(got) != 0 {
		t.Errorf("%v", got)
	}
	write(t, filepath.Dir(dir), "file", nil)
	if _, err := ledger.Open(filepath.Join(filepath.Dir(dir), "file"), ledger.Options{}); err == nil {
		t.Error("a file opens as a ledger")
	}
}

func TestFollow(t *testing.T) {
	for name, c := range map[string]struct {
		q     ledger.Query
		first int
	}{"all": {ledger.Query{}, 0}, "the last": {ledger.Query{Last: 2}, 1}, "since": {ledger.Query{Since: noon.Add(2 * time.Second)}, 2}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, ledger.Options{})
			add := func(i int) {
				t.Helper()
				if err := l.Append(request(i)); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 3 {
				add(i)
			}
			if err := l.Sync(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			next := c.first
			for r, err := range ledger.Follow(ctx, dir, c.q) {
				if err != nil {
					t.Fatal(err)
				}
				if r.ID != "req-"+strconv.Itoa(next) {
					t.Fatalf("followed to %q, want %d", r.ID, next)
				}
				if next++; next == 8 {
					cancel()
				} else if next > 2 {
					add(next)
				}
			}
			if next != 8 {
				t.Errorf("it ended at %d", next)
			}
		})
	}
}

// TestFollowBad tells the right number of a line that it did not count up to.
func TestFollowBad(t *testing.T) {
	dir, _ := spoiled(t)
	path := filepath.Join(dir, "2026-11-25.jsonl")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, err := range ledger.Follow(ctx, dir, ledger.Query{Last: 1}) {
		if err == nil {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString("\n"); err != nil { // ends what was being written
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if line := new(ledger.LineError); !errors.As(err, &line) || line.Line != 36 || line.File != filepath.Base(path) {
			t.Errorf("%v, want line 36", err)
		}
		cancel()
	}
}

// appendForever is a program that TestKill kills. It says on standard output what was taken, and when.
func appendForever(dir string) {
	l, err := ledger.Open(dir, ledger.Options{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var out sync.Mutex
	for g := range 8 {
		go func() {
			for i := 0; ; i++ {
				r := request(i)
				r.ID = fmt.Sprint(os.Getpid(), "-", g, "-", i)
				if err := l.Append(r); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				if i%10 == 0 {
					now := time.Now().UnixNano()
					out.Lock()
					fmt.Println(g, i, now)
					out.Unlock()
					time.Sleep(20 * time.Millisecond)
				}
			}
		}()
	}
	select {}
}

// fill is a program too: it fills the ledger up to a limit on the size of
// files, has the limit raised, and says how many records were taken.
func fill(dir string) {
	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	check := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	check(syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	l, err := ledger.Open(dir, ledger.Options{})
	check(err)
	check(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 100_000, Max: limit.Max}))
	n := 0
	for ; l.Err() == nil; n++ {
		check(l.Append(request(n)))
		time.Sleep(100 * time.Microsecond)
	}
	if err := l.Sync(); !errors.Is(err, syscall.EFBIG) {
		check(fmt.Errorf("Sync on a full disk is %v", err))
	}
	check(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	for l.Err() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	for range 10 {
		check(l.Append(request(n)))
		n++
	}
	check(l.Close())
	fmt.Println(n)
}

// child starts this test as a program of its own.
func child(t *testing.T, what, dir string) (*exec.Cmd, io.Reader) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0])
	c.Env = append(os.Environ(), "GATEHOUSE_TEST_LEDGER="+what, "GATEHOUSE_TEST_DIR="+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c, out
}

// TestFileLimit has the kernel refuse in the middle of a write.
func TestFileLimit(t *testing.T) {
	dir := t.TempDir()
	c, out := child(t, "fill", dir)
	said, err := io.ReadAll(out)
	if err := errors.Join(err, c.Wait()); err != nil {
		t.Fatalf("%s: %v", said, err)
	}
	got := all(t, dir, ledger.Query{})
	if want := strings.TrimSpace(string(said)); strconv.Itoa(len(got)) != want || len(got) < 200 {
		t.Fatalf("%d records are there, %s were taken", len(got), want)
	}
	for i, r := range got {
		if r.Seq != uint64(i+1) || r.ID != "req-"+strconv.Itoa(i) {
			t.Fatalf("record %d is %s, number %d", i, r.ID, r.Seq)
		}
	}
}

// TestKill kills a process that appends, again and again, and looks for what it
// had said was taken a second before.
func TestKill(t *testing.T) {
	for run := range 3 {
		t.Run(strconv.Itoa(run), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			seed := time.Now().UnixNano()
			random := rand.New(rand.NewPCG(uint64(seed), uint64(run)))
			var worst time.Duration
			checked := 0
			taken := make(map[string]bool) // before the last kill: all are to be there for ever
			for range 3 {
				c, out := child(t, "append", dir)
				type said struct{ g, i, at int64 }
				var heard []said
				end := int64(1100+random.IntN(500)) * int64(time.Millisecond)
				lines := bufio.NewScanner(out)
				for lines.Scan() {
					var s said
					if _, err := fmt.Sscan(lines.Text(), &s.g, &s.i, &s.at); err != nil {
						t.Fatal(lines.Text())
					}
					heard = append(heard, s)
					if s.at-heard[0].at > end {
						break
					}
				}
				killed := time.Now().UnixNano()
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = c.Wait() // it was killed
				there := make(map[string]bool)
				var last uint64
				var tokens int64
				for r, err := range ledger.Read(dir, ledger.Query{}) {
					if err != nil {
						t.Fatal(err)
					}
					if r.Seq != last+1 {
						t.Fatalf("seed %d: record %d follows %d", seed, r.Seq, last)
					}
					last = r.Seq
					if there[r.ID] {
						t.Fatalf("seed %d: %s is there twice", seed, r.ID)
					}
					there[r.ID] = true
					tokens += r.TokensIn + r.TokensOut
				}
				for id := range taken {
					if !there[id] {
						t.Fatalf("seed %d: %s is gone", seed, id)
					}
				}
				for _, s := range heard {
					id := fmt.Sprint(c.Process.Pid, "-", s.g, "-", s.i)
					age := time.Duration(killed - s.at)
					if !there[id] {
						worst = max(worst, age)
					}
					if age > time.Second {
						checked++
						if !there[id] {
							t.Fatalf("seed %d: %s was taken %v before the end and is not there", seed, id, age)
						}
					}
				}
				taken = there
				delete(taken, "") // accounts of repairs have no id
				days, err := ledger.Usage(dir, time.Time{}, time.Time{})
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range days {
					tokens -= d.TokensIn + d.TokensOut
				}
				if tokens != 0 {
					t.Errorf("usage is %d tokens off", tokens)
				}
			}
			if checked < 100 {
				t.Fatalf("only %d records were looked for", checked)
			}
			t.Logf("seed %d: %d records, %d looked for, the oldest that was lost was taken %v before the end", seed, len(taken), checked, worst)
		})
	}
}

// FuzzRead reads any bytes, forwards and backwards.
func FuzzRead(f *testing.F) {
	text, err := request(1).MarshalJSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(text, '\n'))
	f.Add(append(append(text, '\n'), text...))
	f.Add([]byte("{\"seq\":1}\n\n{\"time\":\"x\"}\nrubbish"))
	f.Add([]byte("{\"seq\":3,\"time\":\"9999-12-31T23:59:60Z\",\"event\":\"x\",\"duration_ms\":1e99}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		write(t, dir, today, text)
		forwards := collect(ledger.Read(dir, ledger.Query{}))
		if backwards := collect(ledger.Read(dir, ledger.Query{Last: 1 << 20})); !slices.Equal(forwards, backwards) {
			t.Fatalf("forwards %v\nbackwards %v", forwards, backwards)
		}
		for _, s := range forwards {
			if s.err != "" {
				continue
			}
			// What was read can be written, and then reads as it was written.
			again, err := s.record.MarshalJSON()
			if err != nil || !jsontext.Value(again).IsValid() {
				t.Fatalf("%q: %v", again, err)
			}
		}
	})
}

// TestAllocs: a record costs no memory of its own.
func TestAllocs(t *testing.T) {
	l := open(t, t.TempDir(), ledger.Options{})
	r := request(1)
	if n := testing.AllocsPerRun(20_000, func() {
		if err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}); n > 2 {
		t.Errorf("%v allocations", n)
	}
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
	b.StopTimer()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkRead(b *testing.B) {
	dir := b.TempDir()
	l, err := ledger.Open(dir, ledger.Options{})
	if err != nil {
		b.Fatal(err)
	}
	const n = 50_000
	for i := range n {
		if err := l.Append(request(i)); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for name, q := range map[string]ledger.Query{"all": {}, "passed": {Since: noon.AddDate(0, 0, -1), Until: noon}, "last": {Last: 20}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				for _, err := range ledger.Read(dir, q) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/record")
		})
	}
}

// TestConcurrent has many append while another reads: it sees whole lines, in
// order.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, ledger.Options{})
	var writers, reader sync.WaitGroup
	stop := make(chan struct{})
	reader.Go(func() {
		for {
			for i, r := range all(t, dir, ledger.Query{}) {
				if r.Seq != uint64(i+1) {
					t.Errorf("record %d has number %d", i, r.Seq)
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	for g := range 16 {
		writers.Go(func() {
			for i := range 200 {
				if err := l.Append(request(g*200 + i)); err != nil {
					t.Error(err)
				}
				if i%50 == 0 {
					if err := l.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	reader.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	for _, r := range all(t, dir, ledger.Query{}) {
		ids[r.ID] = true
	}
	if len(ids) != 3200 {
		t.Errorf("%d of 3200 records", len(ids))
	}
}
