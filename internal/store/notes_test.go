package store_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

func TestNotes(t *testing.T) { onEach(t, testOfNotes) }

func testOfNotes(t *testing.T, path string) {
	st, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	day := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	at := netip.MustParseAddr("192.0.2.7")
	mapped := netip.MustParseAddr("::ffff:192.0.2.7") // is the same host
	add := func(n wave.Note) int64 {
		t.Helper()
		n.Made = day
		if err := st.AddNote(&n); err != nil || n.Number == 0 {
			t.Fatalf("number %d, %v", n.Number, err)
		}
		return n.Number
	}
	whole := add(wave.Note{Address: at, Kind: wave.Accepted, Text: "J. Doe", Until: day.AddDate(0, 1, 0)})
	port := add(wave.Note{Address: mapped, Port: 8080, Kind: wave.FalsePositive})
	six := add(wave.Note{Address: netip.MustParseAddr("2001:db8::7"), Kind: wave.Comment, Text: "'; DROP TABLE notes; --"})
	if again := add(wave.Note{Address: at, Kind: wave.Accepted, Text: "J. Doe", Until: day.AddDate(0, 2, 0)}); again != whole {
		t.Errorf("the same said twice are notes %d and %d", whole, again)
	}
	list, err := st.Notes()
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v %v", list, err)
	}
	if n := list[0]; n.Number != whole || n.Address != at || !n.Until.Equal(day.AddDate(0, 2, 0)) || n.Text != "J. Doe" || !n.Made.Equal(day) {
		t.Errorf("%+v", n)
	}
	if list[2].Number != six || list[2].Text != "'; DROP TABLE notes; --" || !list[2].Until.IsZero() {
		t.Errorf("%+v", list[2])
	}

	for _, c := range []struct {
		address string
		port    uint16
		when    time.Time
		want    []int64
	}{
		{"192.0.2.7", 11434, day, []int64{whole}},
		{"192.0.2.7", 8080, day, []int64{whole, port}},
		{"192.0.2.7", 8080, day.AddDate(0, 2, 0), []int64{port}}, // the day after
		{"192.0.2.8", 11434, day, nil},
		{"2001:db8::7", 1, day.AddDate(50, 0, 0), []int64{six}},
		{"not an address", 1, day, nil},
	} {
		note, err := st.Noted(c.when)
		if err != nil {
			t.Fatal(err)
		}
		r := wave.Record{Address: c.address, Port: c.port}
		note(&r)
		var got []int64
		for _, n := range r.Notes {
			got = append(got, n.Number)
		}
		if len(got) != len(c.want) {
			t.Errorf("%s port %d: notes %v, want %v", c.address, c.port, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s port %d: notes %v, want %v", c.address, c.port, got, c.want)
			}
		}
		if settled := len(c.want) > 0 && c.want[0] != six; r.Settled() != settled {
			t.Errorf("%s port %d: settled %v", c.address, c.port, r.Settled())
		}
	}

	if err := st.RemoveNote(port); err != nil {
		t.Error(err)
	}
	if err := st.RemoveNote(port); !errors.Is(err, store.ErrNoNote) {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := st.Forget(at); err != nil {
		t.Error(err)
	}
	if list, err = st.Notes(); err != nil || len(list) != 1 || list[0].Number != six {
		t.Errorf("after forgetting: %+v %v", list, err)
	}
}
