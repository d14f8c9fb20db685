package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// disk is one that can be told to refuse, to lie and to hang.
type disk struct {
	mu       sync.Mutex
	most     int64 // how long a file may get; below 0 there is no end
	badSync  bool  // fails, and loses what it should have kept
	badOpen  bool
	hold     chan struct{} // writes wait for it
	holdSync chan struct{}
	writes   int
	refused  int
	careless int // files closed before they were synced
}

type diskFile struct {
	*os.File
	d      *disk
	synced int64
}

func (d *disk) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *disk) open(path string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.badOpen {
		d.refused++
		return nil, syscall.EACCES
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	size, err := sizeOf(f)
	return &diskFile{File: f, d: d, synced: size}, err
}

func (f *diskFile) WriteAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	hold := f.d.hold
	f.d.writes++
	f.d.mu.Unlock()
	if hold != nil {
		<-hold
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.most >= 0 && at+int64(len(b)) > f.d.most {
		f.d.refused++
		n, _ := f.File.WriteAt(b[:max(0, f.d.most-at)], at)
		return n, syscall.ENOSPC
	}
	return f.File.WriteAt(b, at)
}

func (f *diskFile) Sync() error {
	f.d.mu.Lock()
	hold := f.d.holdSync
	f.d.mu.Unlock()
	if hold != nil {
		<-hold
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	size, err := sizeOf(f.File)
	if err != nil {
		return err
	}
	if f.d.badSync {
		// As after a real one: the bytes are gone, and the next sync knows nothing.
		f.d.refused++
		_, err := f.File.WriteAt(make([]byte, size-f.synced), f.synced)
		return errors.Join(syscall.EIO, err)
	}
	f.synced = size
	return nil
}

func (f *diskFile) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if size, err := sizeOf(f.File); err != nil || size > f.synced {
		f.d.careless++
	}
	return f.File.Close()
}

// bench is a log on a disk that a test holds in its hands.
type bench struct {
	*Log
	t    *testing.T
	dir  string
	disk *disk
	n    int
}

func onDisk(t *testing.T, o Options) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), disk: &disk{most: -1}}
	o.open = b.disk.open
	l, err := Open(b.dir, o)
	if err != nil {
		t.Fatal(err)
	}
	b.Log = l
	return b
}

func record(i int) Record {
	return Record{Time: time.Unix(int64(1_790_000_000+i), 0), ID: fmt.Sprint("r", i), Event: Request, Status: 200, Allowed: true}
}

// put appends count records.
func (b *bench) put(count int) {
	b.t.Helper()
	for range count {
		if err := b.Append(record(b.n)); err != nil {
			b.t.Fatal(err)
		}
		b.n++
	}
}

// whole holds that the ledger has the records of put and no others, in their
// order and without a gap, and that nothing in it cannot be read.
func (b *bench) whole() {
	b.t.Helper()
	i := 0
	for r, err := range Read(b.dir, Query{}) {
		if err != nil {
			b.t.Fatal(err)
		}
		if r.ID != fmt.Sprint("r", i) || r.Seq != uint64(i+1) {
			b.t.Fatalf("record %d is %s, number %d", i, r.ID, r.Seq)
		}
		i++
	}
	if i != b.n {
		b.t.Fatalf("%d of %d records", i, b.n)
	}
}

func (b *bench) close() {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Fatal(err)
	}
}

// TestDiskFull fills the disk up at each byte of a record, and gives room again.
func TestDiskFull(t *testing.T) {
	one := record(10)
	length := int64(len(one.appendTo(appendSeq(nil, 11))))
	for most := 10 * length; most <= 11*length+3; most += 7 {
		synctest.Test(t, func(t *testing.T) {
			b := onDisk(t, Options{})
			b.put(9)
			if err := b.Sync(); err != nil {
				t.Fatal(err)
			}
			b.disk.set(func() { b.disk.most = most })
			b.put(5)
			time.Sleep(time.Second)
			if err := b.Err(); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("Err is %v on a full disk", err)
			}
			if err := b.Sync(); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("Sync is %v on a full disk", err)
			}
			b.put(5) // kept, though the disk refuses
			time.Sleep(10 * time.Second)
			b.disk.set(func() {
				if b.disk.refused > 50 {
					t.Errorf("a full disk was asked %d times in 11 s", b.disk.refused)
				}
			})
			// A reader sees whole lines alone.
			for _, err := range Read(b.dir, Query{}) {
				if err != nil {
					t.Error(err)
				}
			}
			b.disk.set(func() { b.disk.most = -1 })
			time.Sleep(time.Second)
			if err := b.Err(); err != nil {
				t.Fatalf("Err is still %v", err)
			}
			b.put(5)
			b.close()
			b.whole()
		})
	}
}

// TestSyncFails has a disk that forgets what it could not sync.
func TestSyncFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onDisk(t, Options{})
		b.put(10)
		if err := b.Sync(); err != nil {
			t.Fatal(err)
		}
		b.disk.set(func() { b.disk.badSync = true })
		b.put(5)
		time.Sleep(time.Second)
		if err := b.Err(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("Err is %v", err)
		}
		b.put(5)
		b.disk.set(func() { b.disk.badSync = false })
		time.Sleep(time.Second)
		if err := b.Sync(); err != nil {
			t.Fatal(err)
		}
		b.whole()
		b.disk.set(func() { b.disk.badSync = true })
		b.put(1)
		if err := b.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("closed with %v", err)
		}
	})
}

// TestWritesWhileSyncing: a sync that takes seconds must not hold back what a
// killed process would lose.
func TestWritesWhileSyncing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onDisk(t, Options{})
		hold := make(chan struct{})
		b.disk.set(func() { b.disk.holdSync = hold })
		b.put(1)
		for range 8 {
			time.Sleep(time.Second)
			b.put(1)
			time.Sleep(2 * linger)
			b.whole()
		}
		if err := b.Err(); err != nil {
			t.Errorf("a slow sync is an error: %v", err)
		}
		time.Sleep(4 * time.Second)
		if err := b.Err(); !errors.Is(err, ErrStalled) {
			t.Errorf("Err is %v for a sync of 12 s", err)
		}
		if err := b.Sync(); !errors.Is(err, ErrStalled) {
			t.Errorf("Sync is %v", err)
		}
		close(hold)
		synctest.Wait()
		if err := b.Err(); err != nil {
			t.Error(err)
		}
		b.close()
		b.whole()
	})
}

// TestGoodSyncBadWrite: a sync that ends well does not make up for a write that
// was refused meanwhile.
func TestGoodSyncBadWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onDisk(t, Options{})
		holdSync, hold := make(chan struct{}), make(chan struct{})
		b.disk.set(func() { b.disk.holdSync = holdSync })
		b.put(1)
		time.Sleep(time.Second)
		b.disk.set(func() { b.disk.most = 0 })
		b.put(1)
		time.Sleep(100 * time.Millisecond)
		b.disk.set(func() { b.disk.hold = hold })
		close(holdSync)
		synctest.Wait()
		if err := b.Err(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Err is %v", err)
		}
		b.disk.set(func() { b.disk.most, b.disk.hold, b.disk.holdSync = -1, nil, nil })
		close(hold)
		b.close()
		b.whole()
	})
}

// TestStalled has a disk that does not come back from a write.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onDisk(t, Options{Buffer: 2000})
		hold := make(chan struct{})
		b.disk.set(func() { b.disk.hold = hold })
		b.put(1)
		time.Sleep(900 * time.Millisecond)
		if err := b.Err(); err != nil {
			t.Errorf("a write of 0.9 s is an error: %v", err)
		}
		time.Sleep(200 * time.Millisecond)
		if err := b.Err(); !errors.Is(err, ErrStalled) {
			t.Errorf("Err is %v for a write of 1.1 s", err)
		}
		began := time.Now()
		var err error
		for err == nil {
			if err = b.Append(record(b.n)); err == nil {
				b.n++
			}
		}
		if !errors.Is(err, ErrFull) || !errors.Is(err, ErrStalled) || time.Since(began) > 0 {
			t.Errorf("refused after %v with %v", time.Since(began), err)
		}
		close(hold)
		synctest.Wait()
		if err := b.Err(); err != nil {
			t.Error(err)
		}
		b.close()
		var last Record
		for r, err := range Read(b.dir, Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			last = r
		}
		if last.Event != "lost" || !strings.HasPrefix(last.Detail, "1 records") || last.Seq != uint64(b.n+1) {
			t.Errorf("the last record is %+v", last)
		}
	})
}

// TestBackPressure has a slow disk and more records than may wait.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onDisk(t, Options{Buffer: 2000})
		hold, done := make(chan struct{}), make(chan struct{})
		b.disk.set(func() { b.disk.hold = hold })
		var slow sync.WaitGroup
		defer slow.Wait()
		defer close(done)
		slow.Go(func() {
			for {
				time.Sleep(700 * time.Millisecond)
				select {
				case hold <- struct{}{}:
				case <-done:
					return
				}
			}
		})
		b.put(100) // waits, and is not refused
		if err := b.Err(); err != nil {
			t.Error(err)
		}
		b.close()
		b.whole()
	})
}

// TestRoom: while the disk refuses, those who are not let in leave room for
// the account of those who were.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onDisk(t, Options{Buffer: 10_000})
		b.disk.set(func() { b.disk.most = 0 })
		b.put(1)
		time.Sleep(time.Second)
		fill := func(r Record) (n int) {
			for b.Append(r) == nil {
				n++
			}
			return n
		}
		denied := record(0)
		denied.Allowed = false
		strangers, guests := fill(denied), fill(record(0))
		if strangers == 0 || guests < strangers*9/10 {
			t.Errorf("%d denied and %d allowed records found room", strangers, guests)
		}
		if err := b.Close(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("closed with %v", err)
		}
		if err := b.Append(denied); !errors.Is(err, ErrClosed) {
			t.Errorf("append after close: %v", err)
		}
		if err := b.Err(); !errors.Is(err, ErrClosed) {
			t.Errorf("Err after close: %v", err)
		}
	})
}

// TestCloseStalled does not wait for ever.
func TestCloseStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onDisk(t, Options{})
		hold := make(chan struct{})
		b.disk.set(func() { b.disk.hold = hold })
		b.put(1)
		time.Sleep(time.Second)
		began := time.Now()
		if err := b.Close(); !errors.Is(err, ErrStalled) || time.Since(began) != closeTime {
			t.Errorf("closed with %v after %v", err, time.Since(began))
		}
		if _, err := Open(b.dir, Options{}); !errors.Is(err, ErrInUse) {
			t.Errorf("a ledger that may still be written to opens: %v", err)
		}
		close(hold)
		b.close() // now it can
		l, err := Open(b.dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestNoSegment has a folder in which no file can be made for a while.
func TestNoSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onDisk(t, Options{})
		b.disk.set(func() { b.disk.badOpen = true })
		b.put(3)
		time.Sleep(time.Second)
		if err := b.Err(); !errors.Is(err, syscall.EACCES) {
			t.Errorf("Err is %v", err)
		}
		b.disk.set(func() { b.disk.badOpen = false })
		time.Sleep(time.Second)
		if err := b.Err(); err != nil {
			t.Error(err)
		}
		b.close()
		b.whole()
	})
}

// clock is one that a test sets.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

var lateEvening = time.Date(2026, 11, 24, 23, 59, 59, 0, time.UTC)

// segments holds that the ledger has these, and that each was synced.
func (b *bench) segments(want ...string) {
	b.t.Helper()
	if b.disk.careless > 0 {
		b.t.Errorf("%d files were closed before they were synced", b.disk.careless)
	}
	names, err := segmentsOf(b.dir)
	if err != nil || !slices.Equal(names, want) {
		b.t.Errorf("segments %v, %v; want %v", names, err, want)
	}
}

// TestMidnight crosses midnight, is set back by a day, and goes on.
func TestMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{t: lateEvening}
		b := onDisk(t, Options{now: c.now})
		for _, step := range []time.Duration{0, 2 * time.Second, -24 * time.Hour, 48 * time.Hour} {
			c.add(step)
			b.put(2)
			time.Sleep(2 * linger) // written, and not synced yet when the next day comes
		}
		b.close()
		b.whole()
		b.segments("2026-11-24.jsonl", "2026-11-25.jsonl", "2026-11-26.jsonl")
	})
}

// TestMidnightFull lets midnight pass while half of a line is written: the other
// half goes where the first is.
func TestMidnightFull(t *testing.T) {
	for _, badSync := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := &clock{t: lateEvening}
			b := onDisk(t, Options{now: c.now})
			b.put(1)
			if err := b.Sync(); err != nil {
				t.Fatal(err)
			}
			b.disk.set(func() { b.disk.most, b.disk.badSync = 150, badSync })
			if badSync {
				b.disk.set(func() { b.disk.most = -1 })
			}
			b.put(2)
			time.Sleep(time.Second)
			c.add(time.Minute)
			time.Sleep(time.Second)
			b.put(1)
			b.disk.set(func() { b.disk.most, b.disk.badSync = -1, false })
			time.Sleep(time.Second)
			if err := b.Err(); err != nil {
				t.Fatal(err)
			}
			b.close()
			b.whole()
			b.segments("2026-11-24.jsonl", "2026-11-25.jsonl")
		})
	}
}

// TestMidnightClose closes just after midnight, with work of both days to do.
func TestMidnightClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{t: lateEvening}
		b := onDisk(t, Options{now: c.now})
		for range 2 { // the first is synced at once, the second is only written
			b.put(1)
			time.Sleep(2 * linger)
		}
		c.add(time.Minute)
		b.put(1)
		b.close()
		b.whole()
		b.segments("2026-11-24.jsonl", "2026-11-25.jsonl")
	})
}

// TestBatches: a thousand records at once are one write, and one sync.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onDisk(t, Options{})
		b.put(1000)
		time.Sleep(time.Second)
		b.disk.set(func() {
			if b.disk.writes != 1 {
				t.Errorf("%d writes", b.disk.writes)
			}
		})
		b.close()
		b.whole()
	})
}

// TestSmallBuffer: what fills the buffer is synced before its time.
func TestSmallBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onDisk(t, Options{Buffer: 2000})
		began := time.Now()
		b.put(200)
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("200 records took %v", took)
		}
		b.close()
		b.whole()
	})
}

// TestFollowMidnight follows a ledger from before it is there past midnight.
func TestFollowMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "ledger")
		got := make(chan string, 100)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for r, err := range Follow(t.Context(), dir, Query{}) {
				if err != nil {
					t.Error(err)
				}
				got <- r.ID
				if r.ID == "r29" {
					return
				}
			}
		}()
		time.Sleep(time.Second)
		c := &clock{t: lateEvening}
		l, err := Open(dir, Options{now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 30 {
			if err := l.Append(record(i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(70 * time.Millisecond)
			if i%10 == 9 {
				c.add(24 * time.Hour)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		<-done
		for i := range 30 {
			if id := <-got; id != fmt.Sprint("r", i) {
				t.Errorf("%s came for r%d", id, i)
			}
		}
	})
}

// FuzzBackward holds reading backwards against reading forwards.
func FuzzBackward(f *testing.F) {
	f.Add([]byte("a\nbb\n\nccc\n"), 1)
	f.Add([]byte("\n"), 0)
	f.Add([]byte("a\nb\n"), maxLine)
	f.Fuzz(func(t *testing.T, text []byte, pad int) {
		// Long lines are made here: they would make a corpus of megabytes.
		text = append(slices.Insert(slices.Clone(text), len(text)/2, bytes.Repeat([]byte("x"), min(max(pad, 0), 3*maxLine))...), '\n')
		var want [][]byte
		for line := range bytes.SplitSeq(text[:len(text)-1], []byte("\n")) {
			if len(line) >= maxLine {
				line = nil
			}
			want = append(want, line)
		}
		slices.Reverse(want)
		i := 0
		for line, err := range backward(bytes.NewReader(text)) {
			if err != nil {
				t.Fatal(err)
			}
			if i == len(want) || !bytes.Equal(line, want[i]) || (line == nil) != (want[i] == nil) {
				t.Fatalf("line %d from the end is %.20q of %d bytes", i, line, len(line))
			}
			i++
		}
		if i != len(want) {
			t.Fatalf("%d lines of %d", i, len(want))
		}
	})
}

// FuzzRecover opens a ledger of any bytes. All that could be read before can be
// read after, what is added is whole, and its number is new.
func FuzzRecover(f *testing.F) {
	one, two := record(0), record(1)
	text := two.appendTo(appendSeq(one.appendTo(appendSeq(nil, 1)), 2))
	f.Add(text)
	f.Add(text[:len(text)-1])
	f.Add(text[:len(text)-9])
	f.Add([]byte("x\n{}\n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "2026-11-24"+segmentEnd)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		records := func() (list []Record) {
			for r, err := range Read(dir, Query{}) {
				if err == nil {
					list = append(list, r)
				}
			}
			return list
		}
		before := records()
		l := &Log{dir: dir}
		if err := l.recover(); err != nil {
			t.Fatal(err)
		}
		mended, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(mended) > 0 && mended[len(mended)-1] != '\n' {
			t.Fatalf("%q still has no end", mended)
		}
		after := records()
		if len(after) < len(before) || len(after) > len(before)+1 || !slices.Equal(after[:len(before)], before) {
			t.Fatalf("before %v\nafter %v", before, after)
		}
		if len(after) > 0 && l.seq < after[len(after)-1].Seq {
			t.Fatalf("goes on with %d after %d", l.seq+1, after[len(after)-1].Seq)
		}
	})
}
