package wave_test

import (
	"testing"
	"time"

	"gatehouse/internal/wave"
)

func TestActivity(t *testing.T) {
	start := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	const minute = time.Minute
	// Expiries are minutes after the start, by the server's clock.
	at := func(m float64) time.Time { return start.Add(time.Duration(m * float64(minute))) }
	look := func(m float64, running ...wave.Loaded) wave.Look {
		return wave.Look{At: at(m), Answered: true, Running: running}
	}
	silent := func(m float64) wave.Look { return wave.Look{At: at(m)} }
	model := func(name string, m float64) wave.Loaded { return wave.Loaded{Name: name, ExpiresAt: at(m)} }
	const forever = 292 * 365 * 24 * 60
	for _, c := range []struct {
		name  string
		looks []wave.Look
		want  wave.Activity
	}{
		{"no look", nil, wave.Unwatched},
		{"one look", []wave.Look{look(0, model("a", 5))}, wave.Unwatched},
		{"two, one silent", []wave.Look{look(0, model("a", 5)), silent(10)}, wave.Unwatched},
		{"nothing loaded", []wave.Look{look(0), look(10)}, wave.Idle},
		{"asked between", []wave.Look{look(0, model("a", 3)), look(2, model("a", 6))}, wave.Active},
		{"asked between, then left alone", []wave.Look{look(0, model("a", 3)), look(2, model("a", 6)), look(20)}, wave.Active},
		{"left alone", []wave.Look{look(0, model("a", 30)), look(10, model("a", 30))}, wave.Resident},
		{"expired between", []wave.Look{look(0, model("a", 3)), look(10)}, wave.Idle},
		{"loaded between", []wave.Look{look(0), look(10, model("a", 12))}, wave.Active},
		{"another one loaded", []wave.Look{look(0, model("a", 30)), look(10, model("a", 30), model("b", 14))}, wave.Active},
		{"over a silent look", []wave.Look{look(0, model("a", 3)), silent(10), look(20, model("a", 24))}, wave.Active},
		{"keep_alive made shorter", []wave.Look{look(0, model("a", 60)), look(10, model("a", 14))}, wave.Resident},
		{"pinned, left alone", []wave.Look{look(0, model("a", forever)), look(10, model("a", forever))}, wave.Pinned},
		{"pinned, asked", []wave.Look{look(0, model("a", forever)), look(10, model("a", forever+8))}, wave.Active},
		{"one of two pinned", []wave.Look{
			look(0, model("a", forever), model("b", 30)), look(10, model("a", forever), model("b", 30)),
		}, wave.Resident},
		// A clock that is two hours slow: what is loaded seems to have expired.
		{"slow clock", []wave.Look{look(0, model("a", -115)), look(10, model("a", -115))}, wave.Resident},
	} {
		if got := wave.ActivityOf(c.looks); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}

	// 10 of 100, and 50 more of which nothing is known.
	share, i, ok := wave.Activities{wave.Active: 10, wave.Idle: 60, wave.Resident: 25, wave.Pinned: 5, wave.Unwatched: 50}.Active()
	if share != 0.1 || !ok {
		t.Errorf("share %v %v", share, ok)
	}
	near(t, "low", i.Low, 0.0552, 5e-5) // Wilson for 10 of 100
	near(t, "high", i.High, 0.1744, 5e-5)
	if share, _, ok := (wave.Activities{wave.Unwatched: 3}).Active(); ok {
		t.Errorf("a share of nothing: %v", share)
	}
}

func TestUptime(t *testing.T) {
	for _, c := range []struct {
		seen, looks int
		want        wave.Uptime
	}{
		{0, 3, wave.Never},
		{1, 3, wave.Once},
		{2, 3, wave.Sometimes},
		{3, 3, wave.Always},
		{1, 1, wave.Once},
		{2, 2, wave.Always},
	} {
		if got := wave.UptimeOf(c.seen, c.looks); got != c.want {
			t.Errorf("%d of %d: %s, want %s", c.seen, c.looks, got, c.want)
		}
	}
	if n := (wave.Uptimes{wave.Never: 9, wave.Once: 1, wave.Sometimes: 2, wave.Always: 3}).Seen(); n != 6 {
		t.Errorf("%d were seen", n)
	}
}
