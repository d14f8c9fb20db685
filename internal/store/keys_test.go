package store_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/key"
	"gatehouse/internal/ollama"
	"gatehouse/internal/store"
)

// keeper is what every kind of store does.
type keeper interface {
	AddKey(key.Key) error
	Keys() ([]key.Key, error)
	FindKey(idOrName string) (key.Key, error)
	UpdateKey(id string, change func(*key.Key) error) error
	Version() (int64, error)
	Close() error
}

var _ keeper = (*store.Store)(nil)

// suite holds a kind of store to what all of them promise. Each call of place is
// a new, empty one; what it returns opens it, as often as asked.
func suite(t *testing.T, place func(t *testing.T) (open func() keeper)) {
	for name, test := range map[string]func(*testing.T, func() keeper){
		"round trip": testRoundTrip,
		"order":      testOrder,
		"version":    testVersion,
		"duplicates": testDuplicates,
		"update":     testUpdate,
		"many":       testMany,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, place(t))
		})
	}
}

func TestKeys(t *testing.T) {
	onEach(t, func(t *testing.T, _ string) {
		suite(t, func(t *testing.T) func() keeper {
			path := fresh[kindOf(t)](t)
			return func() keeper { return open(t, path) }
		})
	})
}

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func newKey(name string) key.Key {
	_, k := key.Mint(now)
	k.Name = name
	return k
}

// full is a key with every field set, so that none is forgotten on the way.
func full() key.Key {
	k := newKey("laptop")
	k.Rotate(now, time.Hour)
	k.Ed25519 = []byte(strings.Repeat("\x07", 32))
	k.Expires, k.Revoked = now.AddDate(0, 3, 0), now.Add(time.Hour)
	k.Terms = key.Terms{
		Powers: []ollama.Power{ollama.Read, ollama.Infer}, Models: []string{"llama3.2:*", "*"},
		Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/48")},
		Hours:   []key.Window{{Days: []time.Weekday{time.Monday, time.Sunday}, From: time.Hour, To: 20*time.Hour + 1, Zone: "Europe/Berlin"}},
		Caps:    key.Caps{NumCtx: 1, MaxTokens: 2, KeepAlive: -1, Images: -1, RequestBytes: 5},
		Limits:  key.Limits{PerMinute: 6, TokensMinute: 7, TokensDay: 1 << 60, Streams: 9, Weight: 10},
		Strict:  true,
	}
	return k
}

// unset names the fields below v, other than times, that are zero.
func unset(v reflect.Value, path string) (names []string) {
	switch {
	case v.Type().PkgPath() != "gatehouse/internal/key":
		if v.IsZero() {
			names = append(names, path)
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			f := v.Field(i)
			if f.Kind() == reflect.Slice && f.Len() > 0 && f.Type().Elem().Kind() == reflect.Struct {
				f = f.Index(0)
			}
			names = append(names, unset(f, path+"."+v.Type().Field(i).Name)...)
		}
	}
	return names
}

// same compares keys by their fields, for they do not print themselves.
func same(t *testing.T, got, want key.Key) {
	t.Helper()
	type bare key.Key
	if !reflect.DeepEqual(bare(got), bare(want)) {
		t.Errorf("\n got %+v\nwant %+v", bare(got), bare(want))
	}
}

func testRoundTrip(t *testing.T, open func() keeper) {
	want := full()
	// The first secret has no end of its own, the second one has.
	if names := unset(reflect.ValueOf(want), "key"); !slices.Equal(names, []string{"key.Secrets.Until"}) || want.Secrets[1].Until.IsZero() {
		t.Fatalf("%v are not set, so the test does not see them", names)
	}
	bare := newKey("bare")
	s := open()
	for _, k := range []key.Key{want, bare} {
		if err := s.AddKey(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	for _, want := range []key.Key{want, bare} {
		for _, name := range []string{want.ID, want.Name} {
			got, err := s.FindKey(name)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, want)
		}
	}
	odd := newKey("odd")
	odd.Created, odd.Expires = now.Add(1500*time.Millisecond), now.In(time.FixedZone("", 3600))
	if err := s.AddKey(odd); err != nil {
		t.Fatal(err)
	}
	odd.Created, odd.Expires = now.Add(time.Second), now // to the second, in UTC
	got, err := s.FindKey("odd")
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, odd)
}

func testOrder(t *testing.T, open func() keeper) {
	s := open()
	if keys, err := s.Keys(); err != nil || len(keys) != 0 {
		t.Errorf("a new store has %v, %v", keys, err)
	}
	for _, name := range []string{"c", "a", "B", "ä"} {
		if err := s.AddKey(newKey(name)); err != nil {
			t.Fatal(err)
		}
	}
	// A key may be named like the id of another: the id goes first.
	first, err := s.FindKey("c")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddKey(newKey(first.ID)); err != nil {
		t.Fatal(err)
	}
	if k, err := s.FindKey(first.ID); err != nil || k.Name != "c" {
		t.Errorf("%v %v", k, err)
	}
	keys, err := s.Keys()
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.Name
	}
	if want := []string{"B", "a", "c", "ä", first.ID}; !slices.Equal(names, slices.Sorted(slices.Values(want))) {
		t.Errorf("keys %v", names)
	}
}

func version(t *testing.T, s keeper) int64 {
	t.Helper()
	n, err := s.Version()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// testVersion holds that each change is seen by others, and nothing else is.
func testVersion(t *testing.T, open func() keeper) {
	s, gate := open(), open()
	before := version(t, gate)
	k := newKey("a")
	if err := s.AddKey(k); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateKey(k.ID, func(k *key.Key) error { k.Revoked = now; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := version(t, gate); got != before+2 {
		t.Errorf("version %d after two changes, it was %d", got, before)
	}
	if got, err := gate.FindKey("a"); err != nil || !got.Revoked.Equal(now) {
		t.Errorf("the gate does not see a change: %v", err)
	}
	if err := s.AddKey(newKey("a")); err == nil {
		t.Error("a second a is kept")
	}
	if err := s.AddKey(newKey(" ")); err == nil || !strings.Contains(err.Error(), "name") {
		t.Errorf("a key without a name: %v", err)
	}
	if _, err := s.Keys(); err != nil {
		t.Error(err)
	}
	if got := version(t, gate); got != before+2 {
		t.Errorf("version %d, though nothing changed", got)
	}
}

func testDuplicates(t *testing.T, open func() keeper) {
	s := open()
	one, two, three := full(), newKey("two"), newKey("three")
	one.Revoked = time.Time{}
	two.Ed25519, three.Ed25519 = []byte{}, []byte{} // none, both
	for _, k := range []key.Key{one, two, three} {
		if err := s.AddKey(k); err != nil {
			t.Fatal(err)
		}
	}
	sameName, sameID, samePublic := newKey("laptop"), newKey("other"), newKey("other")
	sameID.ID, samePublic.Ed25519 = one.ID, one.Ed25519
	for what, err := range map[string]error{
		`name "laptop"`: s.AddKey(sameName),
		"id " + one.ID:  s.AddKey(sameID),
		"public key":    s.AddKey(samePublic),
		`the name "lap`: s.UpdateKey(two.ID, func(k *key.Key) error { k.Name = "laptop"; return nil }),
		"the public ke": s.UpdateKey(two.ID, func(k *key.Key) error { k.Ed25519 = one.Ed25519; return nil }),
	} {
		if !errors.Is(err, store.ErrDuplicate) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if keys, err := s.Keys(); err != nil || len(keys) != 3 {
		t.Errorf("%v %v", keys, err)
	}
	// The public key of a revoked one is free again, and then taken again.
	if err := s.UpdateKey(one.ID, func(k *key.Key) error { k.Revoked = k.Created; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.AddKey(samePublic); err != nil {
		t.Errorf("the public key of a revoked key: %v", err)
	}
	if err := s.UpdateKey(one.ID, func(k *key.Key) error { k.Revoked = time.Time{}; return nil }); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("two good keys have one public key: %v", err)
	}
}

func testUpdate(t *testing.T, open func() keeper) {
	s := open()
	one, two := newKey("one"), newKey("two")
	for _, k := range []key.Key{one, two} {
		if err := s.AddKey(k); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.FindKey("none"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if err := s.UpdateKey("none", func(*key.Key) error { t.Error("there is a none"); return nil }); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	mine := errors.New("mine")
	if err := s.UpdateKey(one.ID, func(k *key.Key) error { k.Name = "z"; return mine }); err != mine {
		t.Errorf("%v, want it as it is", err)
	}
	if err := s.UpdateKey(one.ID, func(k *key.Key) error { k.Name = ""; return nil }); err == nil {
		t.Error("a name is taken away")
	}
	same(t, must(s.FindKey("one"))(t), one)
	want := full()
	if err := s.UpdateKey(one.ID, func(k *key.Key) error {
		*k = want
		k.ID = two.ID // does not make it the other
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want.ID = one.ID
	same(t, must(s.FindKey(one.ID))(t), want)
	same(t, must(s.FindKey(two.ID))(t), two)
}

func must(k key.Key, err error) func(*testing.T) key.Key {
	return func(t *testing.T) key.Key {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
}

// testMany has a gate and a command change keys at the same time: no change is
// lost.
func testMany(t *testing.T, open func() keeper) {
	one, two := open(), open()
	k := newKey("shared")
	if err := one.AddKey(k); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, s := range []keeper{one, two, one, two} {
		wg.Go(func() {
			for n := range 15 {
				if err := s.AddKey(newKey(fmt.Sprintf("k%d-%d", i, n))); err != nil {
					t.Error(err)
				}
				if err := s.UpdateKey(k.ID, func(k *key.Key) error { k.Terms.Limits.PerMinute++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if keys, err := two.Keys(); err != nil || len(keys) != 61 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	if n := version(t, one); n != 121 {
		t.Errorf("version %d", n)
	}
	if got := must(one.FindKey("shared"))(t).Terms.Limits.PerMinute; got != 60 {
		t.Errorf("%d of 60 changes are there", got)
	}
}
