package main

import (
	"math"
	"slices"
	"testing"

	"gatehouse/bench/figures"
)

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		list []float64
		want summary
	}{
		{nil, summary{}},
		{[]float64{7}, summary{7, 7, 7, 1}},
		{[]float64{9, 1}, summary{5, 1, 9, 2}},
		{[]float64{30, 10, 20}, summary{20, 10, 30, 3}},
		{[]float64{4, 1, 3, 2}, summary{2.5, 1, 4, 4}},
		{[]float64{5, 5, 1, 9, 5}, summary{5, 1, 9, 5}},
	} {
		before := slices.Clone(c.list)
		if got := summarise(c.list); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.list, got, c.want)
		}
		if !slices.Equal(before, c.list) {
			t.Errorf("%v was changed to %v", before, c.list)
		}
	}
}

// The machine was half as fast in the second round, for both: the ratio does
// not know of it.
func TestRatio(t *testing.T) {
	base := rounds{1: 100, 2: 50, 3: 200}
	for _, c := range []struct {
		r    rounds
		want summary
	}{
		{rounds{1: 200, 2: 100, 3: 400}, summary{2, 2, 2, 3}},
		{rounds{1: 50, 2: 50, 3: 50}, summary{0.5, 0.25, 1, 3}},
		{rounds{3: 100, 4: 1000}, summary{0.5, 0.5, 0.5, 1}}, // the fourth round is not ours
		{rounds{}, summary{}},
	} {
		if got := c.r.ratio(base); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.r, got, c.want)
		}
	}
	if got := (rounds{1: 5}).ratio(rounds{1: 0}); got.Rounds != 0 || math.IsNaN(got.Median) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestGather(t *testing.T) {
	list := gather([]figures.Row{
		{Bench: "scan", Series: "speed", X: 1000, UnitX: "hosts", Y: 10, UnitY: "hosts/s", Round: 1, Peer: "zmap"},
		{Bench: "scan", Series: "speed", X: 10, UnitX: "hosts", Y: 20, UnitY: "hosts/s", Round: 1, Peer: "gatehouse"},
		{Bench: "scan", Series: "memory", X: 10, UnitX: "hosts", Y: 30, UnitY: "MB", Round: 1, Peer: "curl"},
		{Bench: "scan", Series: "speed", X: 10, UnitX: "hosts", Y: 40, UnitY: "hosts/s", Round: 2, Peer: "curl"},
	})
	if len(list) != 2 || list[0].Name != "speed" || list[1].Name != "memory" {
		t.Fatalf("%+v", list)
	}
	s := list[0]
	if !slices.Equal(s.X, []float64{10, 1000}) || !slices.Equal(s.Peers, []string{"gatehouse", "curl", "zmap"}) {
		t.Errorf("x %v, peers %v", s.X, s.Peers)
	}
	if s.At[10]["curl"][2] != 40 || s.At[1000]["zmap"][1] != 10 || len(s.At[1000]["gatehouse"]) != 0 {
		t.Errorf("%v", s.At)
	}
	if s.curve() {
		t.Error("two points are drawn")
	}
}

func TestLosses(t *testing.T) {
	at := func(unit, peer string, values ...float64) (rows []figures.Row) {
		for i, v := range values {
			rows = append(rows, figures.Row{Bench: "gate", Series: "figure", X: 1, Y: v, UnitY: unit, Round: i + 1, Peer: peer})
		}
		return rows
	}
	rows := slices.Concat(
		at("requests/s", "gatehouse", 100, 100, 100), at("requests/s", "fast", 200, 300, 150), at("requests/s", "slow", 50, 60, 70),
		at("requests/s", "even", 90, 110, 120), at("requests/s", "direct", 900, 900, 900),
		at("MB", "gatehouse", 20, 20, 20), at("MB", "fast", 40, 40, 40), at("MB", "slow", 10, 10, 10), at("MB", "unmeasured", 0, 0, 0),
	)
	type lose struct {
		unit, peer string
		ratio      float64
	}
	var got []lose
	for _, l := range losses(gather(rows), []string{"direct"}) {
		got = append(got, lose{l.Series.UnitY, l.Peer, l.Ratio.Median})
	}
	want := []lose{{"requests/s", "fast", 2}, {"MB", "slow", 0.5}}
	if !slices.Equal(got, want) {
		t.Errorf("lost %+v, want %+v", got, want)
	}
}
