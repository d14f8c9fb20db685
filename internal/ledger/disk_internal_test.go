package ledger

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// disk is one that can be told to refuse.
type disk struct {
	mu    sync.Mutex
	room  int  // bytes that still fit; below 0 no end
	stuck bool // sync fails
}

type diskFile struct {
	*os.File
	d *disk
}

func (f diskFile) Write(p []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.room >= 0 && len(p) > f.d.room {
		n, _ := f.File.Write(p[:f.d.room])
		f.d.room -= n
		return n, syscall.ENOSPC
	}
	if f.d.room >= 0 {
		f.d.room -= len(p)
	}
	return f.File.Write(p)
}

func (f diskFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.stuck {
		return syscall.EIO
	}
	return f.File.Sync()
}

func (d *disk) set(room int, stuck bool) {
	d.mu.Lock()
	d.room, d.stuck = room, stuck
	d.mu.Unlock()
}

func (d *disk) open(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	return diskFile{f, d}, err
}

func record(i int) Record {
	return Record{Time: time.Unix(int64(1_790_000_000+i), 0), ID: "r", Event: Request, Status: 200}
}

func await(t *testing.T, l *Log, ok func(error) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(l.Err()); {
		if time.Now().After(end) {
			t.Fatalf("Err is still %v", l.Err())
		}
		l.mu.Lock()
		progress := l.progress
		l.mu.Unlock()
		select {
		case <-progress:
		case <-time.After(time.Second):
		}
	}
}

// TestDiskFull fills the disk in the middle of a record, and gives room again.
func TestDiskFull(t *testing.T) {
	for _, fault := range []struct {
		name  string
		room  int
		stuck bool
	}{{"full", 100, false}, {"sync fails", -1, true}} {
		t.Run(fault.name, func(t *testing.T) {
			dir := t.TempDir()
			d := &disk{room: -1}
			l, err := Open(dir, Options{open: d.open, SyncEvery: 20 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			put := func(count int) {
				t.Helper()
				for range count {
					if err := l.Append(record(n)); err != nil {
						t.Fatal(err)
					}
					n++
				}
			}
			put(10)
			if err := l.Sync(); err != nil {
				t.Fatal(err)
			}
			d.set(fault.room, fault.stuck)
			put(5)
			await(t, l, func(err error) bool { return err != nil })
			if err := l.Sync(); err == nil {
				t.Error("Sync says that all is well")
			}
			put(5) // kept, though the disk refuses
			d.set(-1, false)
			await(t, l, func(err error) bool { return err == nil })
			put(5)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			i := 0
			for r, err := range Read(dir, Query{}) {
				if err != nil {
					t.Fatal(err)
				}
				if i++; r.Seq != uint64(i) {
					t.Fatalf("record %d has number %d", i, r.Seq)
				}
			}
			if i != n {
				t.Errorf("%d of %d records", i, n)
			}
		})
	}
}

// TestBufferFull holds the disk shut until no more can wait.
func TestBufferFull(t *testing.T) {
	d := &disk{room: 0}
	l, err := Open(t.TempDir(), Options{open: d.open, Buffer: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		err = l.Append(record(0))
	}
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, ErrFull) {
		t.Errorf("refused with %v", err)
	}
	if err := l.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("closed with %v", err)
	}
}

// TestMidnight crosses midnight and is then set back by a day.
func TestMidnight(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	now := time.Date(2026, 11, 24, 23, 59, 59, 0, time.UTC)
	l, err := Open(dir, Options{now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []time.Duration{0, 2 * time.Second, -24 * time.Hour, 48 * time.Hour} {
		mu.Lock()
		now = now.Add(step)
		mu.Unlock()
		if err := l.Append(record(0)); err != nil {
			t.Fatal(err)
		}
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	segments, err := segmentsOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(segments) != 3 || segments[0] != "2026-11-24.jsonl" || segments[1] != "2026-11-25.jsonl" || segments[2] != "2026-11-26.jsonl" {
		t.Errorf("segments %v", segments)
	}
	n := uint64(0)
	for r, err := range Read(dir, Query{}) {
		if n++; err != nil || r.Seq != n {
			t.Errorf("%d: %v", r.Seq, err)
		}
	}
	if n != 4 {
		t.Errorf("%d records", n)
	}
}
