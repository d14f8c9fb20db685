package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/internal/notice"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

// looker makes waves that find nothing, in no time, and notes when.
type looker struct {
	store *store.Store
	at    []time.Time
	fail  error
	n     int
}

func (l *looker) look(context.Context) (string, error) {
	l.at = append(l.at, time.Now())
	if l.fail != nil {
		return "", l.fail
	}
	l.n++
	w, err := l.store.Begin(wave.Info{Name: fmt.Sprint(time.Now().UnixNano(), l.n), Scope: "acme", Source: "scan", Plan: "p", Covers: "c", Started: time.Now()})
	if err != nil {
		return "", err
	}
	return "c", errors.Join(w.End(wave.Summary{Started: time.Now(), Ended: time.Now()}), w.Close())
}

// watchFor runs a watch for some time of the bubble, as one process would.
func watchFor(t *testing.T, l *looker, s wave.Schedule, d time.Duration) {
	t.Helper()
	w := &watcher{
		name: "acme", scope: "acme", covers: "c", schedule: s, store: l.store, goneAfter: 2, out: streams{out: io.Discard, err: io.Discard},
		courier: &notice.Courier{Box: l.store.Box("acme")}, look: l.look,
	}
	stop := make(chan struct{})
	timer := time.AfterFunc(d, func() { close(stop) })
	defer timer.Stop()
	if err := w.run(t.Context(), stop); !errors.Is(err, codeError(exitStopped)) {
		t.Fatalf("the watch ended with %v", err)
	}
}

func inBubble(t *testing.T, what func(*testing.T, *looker)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		st, err := store.Open(filepath.Join(dir, "gatehouse.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		what(t, &looker{store: st})
	})
}

// TestWatcherSchedule: waves come when they are due, a restart moves none, and for
// ten that were missed there is one.
func TestWatcherSchedule(t *testing.T) {
	inBubble(t, func(t *testing.T, l *looker) {
		s := wave.Schedule{Every: 24 * time.Hour, Jitter: 0.1}
		watchFor(t, l, s, 10*24*time.Hour)
		if len(l.at) < 9 || len(l.at) > 12 {
			t.Fatalf("%d waves in ten days", len(l.at))
		}
		for i := 1; i < len(l.at); i++ {
			if d := l.at[i].Sub(l.at[i-1]); d < 21*time.Hour || d > 27*time.Hour {
				t.Errorf("%s from one wave to the next, want 24h and a tenth more or less", d)
			}
		}
		n, last := len(l.at), l.at[len(l.at)-1]
		for time.Since(last) < 20*time.Hour { // started again and again, before the next is due
			watchFor(t, l, s, time.Hour)
		}
		if len(l.at) != n {
			t.Errorf("%d waves more, though none was due", len(l.at)-n)
		}
		time.Sleep(10 * 24 * time.Hour) // the bubble's time: the watch was off
		watchFor(t, l, s, time.Hour)
		if len(l.at) != n+1 {
			t.Errorf("%d waves for ten days that were missed, want 1", len(l.at)-n)
		}
	})
}

// TestWatcherFailing: the pauses grow, a restart does not shorten them, and it is
// told once.
func TestWatcherFailing(t *testing.T) {
	inBubble(t, func(t *testing.T, l *looker) {
		s := wave.Schedule{Every: 10 * time.Minute}
		l.fail = errors.New("the network is down")
		watchFor(t, l, s, 16*time.Minute) // at 0, 1, 3, 7 and 15 minutes
		var minutes []int
		for _, at := range l.at {
			minutes = append(minutes, int(at.Sub(l.at[0]).Minutes()))
		}
		if fmt.Sprint(minutes) != "[0 1 3 7 15]" {
			t.Errorf("tried at the minutes %v", minutes)
		}
		watchFor(t, l, s, 8*time.Minute)
		if len(l.at) != 5 {
			t.Errorf("a restart tries at once: %d tries", len(l.at))
		}
		l.fail = nil
		watchFor(t, l, s, 5*time.Minute)
		kept, err := l.store.Watch("acme")
		if err != nil || kept.Failures != 0 || kept.Trouble != "" || kept.Told == 0 {
			t.Errorf("after a wave that came to its end: %+v, %v", kept, err)
		}
	})
}

// TestWatcherBusy: while another process makes a wave of the scope, a watch waits.
func TestWatcherBusy(t *testing.T) {
	inBubble(t, func(t *testing.T, l *looker) {
		other, err := l.store.Begin(wave.Info{Name: "by hand", Scope: "acme", Source: "scan", Plan: "other", Covers: "other", Started: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		s := wave.Schedule{Every: time.Hour}
		watchFor(t, l, s, 30*time.Minute)
		if len(l.at) != 0 {
			t.Errorf("looked %d times beside another scan", len(l.at))
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		watchFor(t, l, s, 30*time.Minute)
		if len(l.at) != 1 {
			t.Errorf("looked %d times after the other scan, want once", len(l.at))
		}
	})
}

// TestWatcherUntold: a wave that ended before a crash, and was not told of, is told
// of by the next run, which looks no second time for it.
func TestWatcherUntold(t *testing.T) {
	inBubble(t, func(t *testing.T, l *looker) {
		if _, err := l.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		watchFor(t, l, wave.Schedule{Every: time.Hour}, time.Minute)
		kept, err := l.store.Watch("acme")
		if err != nil || kept.Told != 1 || len(l.at) != 1 {
			t.Errorf("told of wave %d after %d looks, want 1 and 1; %v", kept.Told, len(l.at), err)
		}
	})
}
