package store

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/key"
	"gatehouse/internal/wave"
)

// exercise has a store do a little of everything.
func exercise(t *testing.T, s *Store, name string) {
	t.Helper()
	now := time.Now().UTC()
	_, k := key.Mint(now)
	k.Name = name
	if err := errors.Join(s.AddKey(k), s.UpdateKey(k.ID, func(k *key.Key) error { k.Revoked = now; return nil })); err != nil {
		t.Fatal(err)
	}
	w, err := s.Begin(wave.Info{Name: name, Scope: "acme", Source: "scan", Plan: "p", Started: now})
	if err != nil {
		t.Fatal(err)
	}
	var list []wave.Observation
	for i := range byte(20) {
		addr := netip.AddrFrom4([4]byte{10, 0, 0, i})
		o := wave.Observation{Pos: uint64(i), Host: evidence.Host{Address: addr, Port: 11434, ObservedAt: now}}
		o.Record.Address, o.Record.Port, o.Record.ObservedAt, o.Record.Outcome = addr.String(), 11434, now, finding.Open
		o.Record.Findings = []finding.Finding{{ID: "of " + name, Severity: finding.High}}
		list = append(list, o)
	}
	if err := errors.Join(w.Keep(list), w.Mark(wave.Mark{At: 10}), w.End(wave.Summary{Ended: now}), w.Close()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range s.Records(w.Info.Number) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != len(list) {
		t.Errorf("%d records of %d", n, len(list))
	}
	note := wave.Note{Address: list[0].Host.Address, Kind: wave.Comment, Text: name, Made: now}
	if err := errors.Join(s.AddNote(&note), s.KeepWatch(Watch{Name: name}, nil, nil)); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Forget(list[1].Host.Address); err != nil || n == 0 {
		t.Errorf("%d are forgotten, %v", n, err)
	}
}
