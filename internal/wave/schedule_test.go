package wave_test

import (
	"fmt"
	"testing"
	"time"

	"gatehouse/internal/wave"
)

// TestScheduleNext: a wave is due within the jitter, at the same time whenever
// that is asked, and once for all that was missed.
func TestScheduleNext(t *testing.T) {
	s := wave.Schedule{Every: 24 * time.Hour, Jitter: 0.1}
	begun := time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC)
	early, late := 0, 0
	for i := range 1000 {
		name := fmt.Sprint("wave ", i)
		next := s.Next(name, begun)
		if next != s.Next(name, begun) {
			t.Fatal("another time at the second asking")
		}
		off := next.Sub(begun) - s.Every
		if off < -144*time.Minute || off > 144*time.Minute {
			t.Fatalf("%s off, more than the jitter", off)
		}
		if off < -time.Hour {
			early++
		}
		if off > time.Hour {
			late++
		}
	}
	if early < 200 || late < 200 { // of about 290 each
		t.Errorf("%d early and %d late of 1000: no even jitter", early, late)
	}
	if next := (wave.Schedule{Every: time.Hour}).Next("x", begun); !next.Equal(begun.Add(time.Hour)) {
		t.Errorf("without jitter the next is at %s", next)
	}
	if next := s.Next("", time.Time{}); !next.IsZero() {
		t.Errorf("without a wave before it the first is at %s, want now", next)
	}
}

func TestScheduleRetry(t *testing.T) {
	s := wave.Schedule{Every: 30 * time.Minute}
	at := time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC)
	for failures, want := range map[int]time.Duration{0: time.Minute, 1: time.Minute, 2: 2 * time.Minute, 5: 16 * time.Minute, 6: 30 * time.Minute, 500: 30 * time.Minute} {
		if got := s.Retry(failures, at).Sub(at); got != want {
			t.Errorf("after %d failures %s, want %s", failures, got, want)
		}
	}
}
