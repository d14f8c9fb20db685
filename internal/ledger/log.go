package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options are how a log keeps what it is given. The zero Options are right for
// a gate.
type Options struct {
	// SyncEvery is how long a record that was written waits to be synced; default
	// 200 ms. It is what a machine that loses power loses.
	SyncEvery time.Duration
	// Buffer is how many bytes may wait to be written, and how many to be synced;
	// default 8 MiB, some 20,000 records. At worst memory is four times that.
	Buffer int

	stall time.Duration // a write that takes longer has stalled; default 1 s
	now   func() time.Time
	open  func(path string) (file, error)
}

// file is what a log needs of one. It writes at offsets and not at the end, so
// that what a disk took half of is written again in its place.
type file interface {
	WriteAt(b []byte, at int64) (int, error)
	Sync() error
	Close() error
}

// ErrInUse says that another process keeps this ledger.
var ErrInUse = errors.New("another gate keeps this ledger")

// ErrFull says that the disk does not take records and no more can wait.
var ErrFull = errors.New("the ledger's buffer is full")

// ErrStalled says that the disk neither takes records nor refuses them.
var ErrStalled = errors.New("the ledger's disk does not answer")

// ErrClosed says that the log is closed.
var ErrClosed = errors.New("the ledger is closed")

// Log adds records to a ledger. One process at a time may.
//
// What Append took is with the kernel some 10 ms later, and synced within
// SyncEvery after that: a process that is killed loses the first, a machine
// that loses power the second. When the disk refuses, records are kept and
// tried again, and no line is ever left torn between others; Err says so
// meanwhile, and a gate that asks it lets nobody in whom it could not account
// for.
type Log struct {
	// Repaired is how many bytes of a torn last line were set aside at Open, in a
	// file beside the segment. The ledger has a record of it.
	Repaired int64

	dir    string
	o      Options
	unlock func() error

	failed  atomic.Pointer[error] // what the disk said last, nil when all is well
	opened  time.Time
	writing atomic.Int64 // when the write under way began, in ns after opened; 0 for none
	syncing atomic.Int64 // likewise the sync

	mu       sync.Mutex
	waiting  []byte        // records that the writer has not taken yet
	seq      uint64        // of the last record
	durable  uint64        // of the last record that is synced
	wanted   uint64        // the last record that somebody waits for in Sync
	lost     int           // records that found no room
	closed   bool          // no more records are taken
	ended    bool          // and the lock is given back
	progress chan struct{} // closed, and made anew, each time the writer got somewhere or failed
	wake     chan struct{} // holds one token when there is work
	finished chan struct{}

	writer writer // its goroutine's own
}

// closeTime is how long Close waits for a disk that does not answer.
const closeTime = 10 * time.Second

// Open opens the ledger in dir, and makes it if it is not there. A last line
// that was torn when its writer ended is set aside.
func Open(dir string, o Options) (*Log, error) {
	o.SyncEvery = cmp.Or(o.SyncEvery, 200*time.Millisecond)
	o.Buffer = cmp.Or(o.Buffer, 8<<20)
	o.stall = cmp.Or(o.stall, time.Second)
	if o.now == nil {
		o.now = time.Now
	}
	if o.open == nil {
		o.open = openFile
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", dir, err)
	}
	l := &Log{
		dir: dir, o: o, unlock: unlock, opened: time.Now(),
		wake: make(chan struct{}, 1), progress: make(chan struct{}), finished: make(chan struct{}),
	}
	if err := l.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger %s: %w", dir, err), unlock())
	}
	l.writer.synced = make(chan error, 1)
	if l.Repaired > 0 {
		detail := fmt.Sprintf("%d bytes of a torn line are set aside in %s", l.Repaired, l.writer.day+tornEnd)
		_ = l.Append(Record{Time: o.now(), Event: "repair", Detail: detail}) // the first record always has room
	}
	go l.write()
	return l, nil
}

func openFile(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
}

const (
	segmentEnd = ".jsonl"
	tornEnd    = segmentEnd + ".torn"
)

// recover mends the last segment and finds the number to go on with. Each line
// that cannot be read had a number too, so that none is given twice.
func (l *Log) recover() error {
	segments, err := segmentsOf(l.dir)
	if err != nil || len(segments) == 0 {
		return err
	}
	newest := segments[len(segments)-1]
	l.writer.day = strings.TrimSuffix(newest, segmentEnd)
	if err := l.repair(filepath.Join(l.dir, newest)); err != nil {
		return err
	}
	unread := uint64(0)
	for _, name := range slices.Backward(segments) {
		seq, bad, err := lastSeq(filepath.Join(l.dir, name))
		if err != nil {
			return err
		}
		unread += bad
		if seq > 0 {
			l.seq = seq
			break
		}
	}
	l.seq += unread
	l.durable = l.seq
	return nil
}

// lastSeq is the number of the last record of a segment, 0 for none, and how
// many lines after it cannot be read.
func lastSeq(path string) (seq, unread uint64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	size, err := sizeOf(f)
	if err == nil {
		size, err = afterNewline(f, size)
	}
	if err != nil {
		return 0, 0, err
	}
	for line, err := range backward(io.NewSectionReader(f, 0, size)) {
		if err != nil {
			return 0, 0, err
		}
		if r, err := parse(line); err == nil && r.Seq > 0 {
			return r.Seq, unread, nil
		}
		unread++
	}
	return 0, unread, nil
}

// repair ends the last line of a segment, if its end is all that it lacks, or
// sets it aside.
func (l *Log) repair(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := sizeOf(f)
	if err != nil {
		return err
	}
	end, err := afterNewline(f, size)
	if err != nil || end == size {
		return err
	}
	torn := make([]byte, min(size-end, maxLine))
	if _, err := f.ReadAt(torn, end); err != nil {
		return err
	}
	if _, err := parse(torn); err == nil && int64(len(torn)) == size-end {
		_, err := f.WriteAt([]byte{'\n'}, size)
		return errors.Join(err, f.Sync())
	}
	aside, err := os.OpenFile(filepath.Join(l.dir, l.writer.day+tornEnd), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = aside.Write(append(torn, '\n'))
	if err = errors.Join(err, aside.Sync(), aside.Close()); err != nil {
		return err
	}
	l.Repaired = size - end
	return errors.Join(f.Truncate(end), f.Sync())
}

// scratch is where records are put into words before they get in line.
var scratch = sync.Pool{New: func() any { return new([1024]byte) }}

// Append adds a record, whose Seq the log gives. It does not wait for the disk,
// unless that is so far behind that there is room for no more.
//
// When it returns nil the record is in line and will be written. While Err is
// not nil that can take long, and a process that ends before takes it along.
// When it returns an error the record is lost, and counted: once the disk takes
// records again, one of the event "lost" says how many were.
func (l *Log) Append(r Record) error {
	s := scratch.Get().(*[1024]byte)
	defer scratch.Put(s)
	line := r.appendTo(s[:0])

	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.room(len(line), r.Event == Request && !r.Allowed); err != nil {
		return err
	}
	l.add(line)
	return nil
}

// add puts a line in line. The caller holds the lock.
func (l *Log) add(line []byte) {
	l.seq++
	l.waiting = append(appendSeq(l.waiting, l.seq), line...)
	l.poke()
}

// room waits until n more bytes may wait, as long as the disk gets on. While it
// does not, denied requests get half of the room: strangers must not crowd out
// the account of those who were let in. The caller holds the lock.
func (l *Log) room(n int, denied bool) error {
	for {
		if l.closed {
			return ErrClosed
		}
		err := l.Err()
		most := l.o.Buffer
		if err != nil && denied {
			most /= 2
		}
		if len(l.waiting) == 0 || len(l.waiting)+n <= most {
			return nil
		}
		if err != nil {
			l.lost++
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
		l.await()
	}
}

// await gives the lock away until the writer got somewhere. Now and then it
// returns without: of a disk that stalls nobody is told.
func (l *Log) await() {
	progress := l.progress
	l.mu.Unlock()
	defer l.mu.Lock()
	select {
	case <-progress:
	case <-time.After(l.o.stall / 4):
	}
}

// Err says why records are not written, nil when they are. It costs next to
// nothing, so that a gate can ask before each request.
func (l *Log) Err() error {
	if err := l.failed.Load(); err != nil {
		return *err
	}
	// A sync may take longer: a busy disk is not a dead one, and what was written
	// outlasts the process.
	if l.late(&l.writing, l.o.stall) || l.late(&l.syncing, 10*l.o.stall) {
		return fmt.Errorf("ledger %s: %w", l.dir, ErrStalled)
	}
	return nil
}

func (l *Log) late(began *atomic.Int64, most time.Duration) bool {
	at := began.Load()
	return at != 0 && time.Since(l.opened)-time.Duration(at) > most
}

// watch notes that something begins, and returns what ends it.
func (l *Log) watch(began *atomic.Int64) (end func()) {
	began.Store(max(1, int64(time.Since(l.opened))))
	return func() { began.Store(0) }
}

// Sync waits until what was appended so far is synced, or cannot be.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for seq := l.seq; l.durable < seq; {
		if err := l.Err(); err != nil {
			return err
		}
		l.wanted = max(l.wanted, seq)
		l.poke()
		l.await()
	}
	return nil
}

// poke wakes the writer.
func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Close writes what waits and closes the ledger. It waits ten seconds at most
// for a disk that does not answer, and its error says so. It may be called
// again.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.poke()
	select {
	case <-l.finished:
	case <-time.After(closeTime):
		// The lock stays until the process ends: the write may yet come through.
		return fmt.Errorf("close ledger %s: %w", l.dir, ErrStalled)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	l.ended = true
	err := l.Err()
	closed := ErrClosed
	l.failed.Store(&closed)
	return errors.Join(err, l.unlock())
}
