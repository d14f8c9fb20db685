package store_test

import (
	"errors"
	"testing"
	"time"

	"gatehouse/internal/finding"
	"gatehouse/internal/target"
	"gatehouse/internal/wave"
)

// TestLooks looks three times at 300 servers: a third is at work, a third idle,
// a third answers the first time only.
func TestLooks(t *testing.T) { onEach(t, testOfLooks) }

func testOfLooks(t *testing.T, path string) {
	s := open(t, path)
	w := begin(t, s, "w")
	list := observations(0, 300)
	shut := observation(300, "0.17.4")
	shut.Record.Outcome = finding.Guarded
	if err := w.Keep(append(list, shut)); err != nil {
		t.Fatal(err)
	}
	w.Info.Looks, w.Info.Method.Every = 3, 600
	places := func(look int) (all []target.Place) {
		for p, err := range w.Open(look) {
			if err != nil {
				t.Fatal(err)
			}
			if p.Scheme == "" || p.Port != 443 && p.Path != "" || p.Port == 443 && (p.Scheme != "https" || p.Name != "ai.example" || p.Path != "/ollama") {
				t.Errorf("%+v", p)
			}
			all = append(all, p)
		}
		return all
	}
	all := places(1)
	if len(all) != 300 {
		t.Fatalf("%d places are open", len(all))
	}
	for look := 2; look <= 3; look++ {
		if again := places(look); len(again) != 300 {
			t.Fatalf("look %d: %d places", look, len(again))
		}
		at := observed.Add(time.Duration(look) * time.Hour)
		for i, p := range all {
			l := wave.Look{At: at, Answered: i%3 < 2}
			if i%3 == 0 {
				l.Running = []wave.Loaded{{Name: "llama3.2:latest", ExpiresAt: at.Add(time.Minute)}}
			}
			if err := w.KeepLook(p, look, l); err != nil {
				t.Fatal(err)
			}
		}
		// A process that ends takes nothing with it that was flushed; the rest is
		// looked at again.
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if w, err = s.Continue(w.Info); err != nil {
			t.Fatal(err)
		}
		if again := places(look); len(again) != 0 {
			t.Errorf("look %d: %d places are to be looked at twice", look, len(again))
		}
	}
	if _, err := w.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.End(wave.Summary{Ended: observed}), w.Close()); err != nil {
		t.Fatal(err)
	}
	info, err := s.Wave("w")
	if err != nil || info.Looks != 3 || info.Method.Looks != 3 || info.Watched == nil {
		t.Fatalf("%+v, %v", info, err)
	}
	got := info.Watched
	if got.Activities[wave.Active] != 100 || got.Activities[wave.Idle] != 100 || got.Activities[wave.Unwatched] != 100 ||
		got.Uptimes[wave.Always] != 200 || got.Uptimes[wave.Once] != 100 {
		t.Errorf("%+v", got)
	}
}
