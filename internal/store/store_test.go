package store_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/key"
	"gatehouse/internal/ollama"
	"gatehouse/internal/store"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("GATEHOUSE_TEST_STORE"); path != "" {
		addForever(path)
	}
	os.Exit(m.Run())
}

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // again, where the test did
	return s
}

func newKey(name string) key.Key {
	_, k := key.Mint(now)
	k.Name = name
	return k
}

// full is a key with every field set, so that none is forgotten on the way.
func full() key.Key {
	k := newKey("laptop")
	k.Rotate(now, time.Hour)
	k.Ed25519 = make([]byte, 32)
	k.Expires, k.Revoked = now.AddDate(0, 3, 0), now.Add(time.Hour)
	k.Terms = key.Terms{
		Powers: []ollama.Power{ollama.Read, ollama.Infer}, Models: []string{"llama3.2:*", "*"},
		Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/48")},
		Hours:   []key.Window{{Days: []time.Weekday{time.Monday, time.Sunday}, From: time.Hour, To: 20 * time.Hour, Zone: "Europe/Berlin"}},
		Caps:    key.Caps{NumCtx: 1, MaxTokens: 2, KeepAlive: 3, Images: -1, RequestBytes: 5},
		Limits:  key.Limits{PerMinute: 6, TokensMinute: 7, TokensDay: 8, Streams: 9, Weight: 10},
		Strict:  true,
	}
	return k
}

// same compares keys by their fields, for they do not print themselves.
func same(a, b key.Key) bool {
	type bare key.Key
	return reflect.DeepEqual(bare(a), bare(b))
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	s := open(t, path)
	want := full()
	for _, f := range []reflect.Value{reflect.ValueOf(want), reflect.ValueOf(want.Terms), reflect.ValueOf(want.Terms.Caps), reflect.ValueOf(want.Terms.Limits)} {
		for i := range f.NumField() {
			if f.Field(i).IsZero() {
				t.Fatalf("%s of %s is not set, so the test does not see it", f.Type().Field(i).Name, f.Type())
			}
		}
	}
	if err := s.AddKey(want); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	for _, name := range []string{want.ID, want.Name} {
		got, err := s.FindKey(name)
		if err != nil {
			t.Fatal(err)
		}
		if !same(got, want) {
			type bare key.Key
			t.Errorf("\n got %+v\nwant %+v", bare(got), bare(want))
		}
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if info, err := os.Stat(path + suffix); err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v", suffix, info.Mode())
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "gh_") {
		t.Error("a token is in the file")
	}
}

func TestKeys(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "k.db"))
	version := func() int64 {
		n, err := s.Version()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := version()
	for _, name := range []string{"c", "a", "b"} {
		if err := s.AddKey(newKey(name)); err != nil {
			t.Fatal(err)
		}
	}
	if version() != before+3 {
		t.Error("three changes are not counted")
	}
	if err := s.AddKey(newKey("b")); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("a second b: %v", err)
	}
	if err := s.AddKey(newKey(" ")); err == nil {
		t.Error("a key without a name is kept")
	}
	if version() != before+3 {
		t.Error("a change that did not happen is counted")
	}
	keys, err := s.Keys()
	if err != nil || len(keys) != 3 || keys[0].Name != "a" || keys[2].Name != "c" {
		t.Errorf("%v %v", keys, err)
	}
	if _, err := s.FindKey("d"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if err := s.UpdateKey("none", func(*key.Key) error { return nil }); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	mine := errors.New("mine")
	if err := s.UpdateKey(keys[0].ID, func(k *key.Key) error { k.Name = "z"; return mine }); !errors.Is(err, mine) {
		t.Error(err)
	}
	if k, err := s.FindKey("a"); err != nil || k.ID != keys[0].ID {
		t.Error("a change that failed is kept")
	}
	if err := s.UpdateKey(keys[0].ID, func(k *key.Key) error { k.Revoked = now; return nil }); err != nil {
		t.Fatal(err)
	}
	if k, err := s.FindKey("a"); err != nil || !k.Revoked.Equal(now) {
		t.Error("a change is not kept")
	}
}

// TestTwo has two open the file at the same time, as a gate and a command do.
func TestTwo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.db")
	one, two := open(t, path), open(t, path)
	var wg sync.WaitGroup
	for i, s := range []*store.Store{one, two, one, two} {
		wg.Go(func() {
			for n := range 20 {
				if err := s.AddKey(newKey(fmt.Sprintf("k%d-%d", i, n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if keys, err := two.Keys(); err != nil || len(keys) != 80 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	if n, err := one.Version(); err != nil || n != 80 {
		t.Errorf("version %d, %v", n, err)
	}
}

func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	damaged := filepath.Join(dir, "damaged.db")
	if err := os.WriteFile(damaged, []byte(strings.Repeat("this is no database ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		damaged:                            "damaged",
		filepath.Join(dir, "none", "k.db"): "no such file",
		dir:                                "is a directory",
	} {
		_, err := store.Open(path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q and the path", path, err, want)
		}
	}
}

// addForever is the child that TestKill kills.
func addForever(path string) {
	s, err := store.Open(path)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for {
		k := newKey(fmt.Sprint(time.Now().UnixNano()))
		if err := s.AddKey(k); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(k.ID)
	}
}

// TestKill kills a process that adds keys: what it had said was added is there.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.db")
	var added []string
	for round := range 4 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), "GATEHOUSE_TEST_STORE="+path)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 5+3*round && lines.Scan(); n++ {
			added = append(added, lines.Text())
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // it was killed
		s := open(t, path)
		for _, id := range added {
			if _, err := s.FindKey(id); err != nil {
				t.Fatalf("round %d, %s: %v", round, id, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
