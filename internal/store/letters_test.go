package store_test

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/notice"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

func TestLetters(t *testing.T) { onEach(t, testOfLetters) }

func testOfLetters(t *testing.T, path string) {
	open := func() *store.Store {
		t.Helper()
		st, err := store.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	st := open()
	now := time.UnixMilli(1_795_000_000_000).UTC()
	w := store.Watch{Name: "acme", Every: time.Hour, Next: now.Add(time.Hour), Told: 7}
	m := notice.Message{ID: "m1", Made: now, Type: "wave.changed", Title: "1 new", Text: "192.0.2.7:11434\n", Data: jsontext.Value(`{"a":1}`)}
	for range 2 { // the second time adds nothing
		if err := st.KeepWatch(w, &m, []string{"slack 1", "slack 2"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st = open()
	defer st.Close()
	if got, err := st.Watch("acme"); err != nil || !reflect.DeepEqual(got, w) {
		t.Errorf("watch %+v, %v, want %+v", got, err, w)
	}
	if got, err := st.Watch("other"); err != nil || got.Name != "other" || got.Told != 0 {
		t.Errorf("a watch that never was: %+v, %v", got, err)
	}
	box := st.Box("acme")
	letters, err := box.Waiting()
	if err != nil || len(letters) != 2 || !reflect.DeepEqual(letters[0].Message, m) || letters[0].Channel != "slack 1" {
		t.Fatalf("waiting %+v, %v", letters, err)
	}
	if other, err := st.Box("other").Waiting(); err != nil || len(other) != 0 {
		t.Errorf("another watch has %+v, %v", other, err)
	}
	l := letters[0]
	l.State, l.Tries, l.Settled = notice.Delivered, 1, now.Add(time.Second)
	if err := box.Keep(l); err != nil {
		t.Fatal(err)
	}
	if err := st.KeepWatch(w, &m, []string{"slack 1"}); err != nil { // told already
		t.Fatal(err)
	}
	if letters, err = box.Waiting(); err != nil || len(letters) != 1 || letters[0].Channel != "slack 2" {
		t.Errorf("waiting after one delivery: %+v, %v", letters, err)
	}
	if all, err := box.Letters(); err != nil || len(all) != 2 || !reflect.DeepEqual(all[0], l) {
		t.Errorf("all letters: %+v, %v", all, err)
	}
	if _, err := st.Forget(netip.MustParseAddr("192.0.2.7")); err != nil {
		t.Fatal(err)
	}
	if all, err := box.Letters(); err != nil || len(all) != 0 {
		t.Errorf("letters that name an address that is to be forgotten: %+v, %v", all, err)
	}
}

func TestLock(t *testing.T) { onEach(t, testOfLock) }

func testOfLock(t *testing.T, path string) {
	var stores [2]*store.Store
	for i := range stores {
		st, err := store.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		stores[i] = st
	}
	unlock, err := stores[0].Lock("watch acme")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stores[1].Lock("watch acme"); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a lock that is held: %v, want %v", err, store.ErrInUse)
	}
	other, err := stores[1].Lock("watch other")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other(), unlock()); err != nil {
		t.Fatal(err)
	}
	if unlock, err = stores[1].Lock("watch acme"); err != nil {
		t.Fatalf("a lock that was let go: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

// TestExcused: what a note settles, as long as it holds.
func TestExcused(t *testing.T) { onEach(t, testOfExcused) }

func testOfExcused(t *testing.T, path string) {
	st, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	now := time.Now().UTC()
	for _, n := range []wave.Note{
		{Address: netip.MustParseAddr("192.0.2.1"), Kind: wave.Accepted, Text: "a lab", Until: now.Add(time.Hour)},
		{Address: netip.MustParseAddr("192.0.2.2"), Kind: wave.Accepted, Text: "no longer", Until: now.Add(-time.Hour)},
		{Address: netip.MustParseAddr("192.0.2.3"), Port: 80, Kind: wave.FalsePositive, Text: "ours"},
		{Address: netip.MustParseAddr("192.0.2.4"), Kind: wave.NoteKind("ticket"), Text: "OPS-1"},
	} {
		n.Made = now.Add(-2 * time.Hour)
		if err := st.AddNote(&n); err != nil {
			t.Fatal(err)
		}
	}
	is, err := st.Excused(now)
	if err != nil {
		t.Fatal(err)
	}
	for place, want := range map[string]bool{
		"192.0.2.1:1": true, "[::ffff:192.0.2.1]:1": true, "192.0.2.2:1": false, "192.0.2.3:80": true, "192.0.2.3:81": false, "192.0.2.4:1": false,
	} {
		if p := netip.MustParseAddrPort(place); is(p.Addr(), p.Port()) != want {
			t.Errorf("%s: %v, want %v", place, !want, want)
		}
	}
}
