package ledger

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options are how a log keeps what it is given. The zero Options are right for
// a gate.
type Options struct {
	// SyncEvery is how long a record waits for the disk at most; default 200 ms.
	// A process that is killed loses what waited to be written, which is less; a
	// machine that loses power loses this.
	SyncEvery time.Duration
	// Buffer is how many bytes may wait while the disk does not take them;
	// default 8 MiB, some 20,000 records.
	Buffer int

	now  func() time.Time
	open func(path string) (file, error)
}

// file is what a log needs of one.
type file interface {
	io.Writer
	io.Closer
	Sync() error
	Truncate(size int64) error
}

// ErrInUse says that another process keeps this ledger.
var ErrInUse = errors.New("another gate keeps this ledger")

// ErrFull says that the disk does not take records and no more can wait.
var ErrFull = errors.New("the ledger's buffer is full")

// ErrClosed says that the log is closed.
var ErrClosed = errors.New("the ledger is closed")

// Log adds records to a ledger. One process at a time may.
//
// What Append took is written within a few milliseconds and is on the disk
// within SyncEvery; when the disk refuses, it is kept and tried again, and Err
// says so meanwhile.
type Log struct {
	// Repaired is how many bytes of a torn last line were set aside at Open.
	Repaired int64

	dir    string
	o      Options
	unlock func() error

	mu       sync.Mutex
	room     sync.Cond // signalled when waiting was taken, or closed
	waiting  []byte    // records not written yet
	seq      uint64    // of the last record taken
	durable  uint64    // of the last record on the disk
	hurried  bool      // somebody waits in Sync
	err      error     // why the disk does not take them
	closed   bool
	progress chan struct{} // closed, and made anew, each time the writer got somewhere or failed
	wake     chan struct{} // holds one token when there is work
	finished chan struct{}

	writer writer // its goroutine's own
}

const segmentEnd = ".jsonl"

// Open opens the ledger in dir, and makes it if it is not there. A line that a
// power cut left torn is set aside in a file beside.
func Open(dir string, o Options) (*Log, error) {
	o.SyncEvery = cmp.Or(o.SyncEvery, 200*time.Millisecond)
	o.Buffer = cmp.Or(o.Buffer, 8<<20)
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
		dir: dir, o: o, unlock: unlock,
		wake: make(chan struct{}, 1), progress: make(chan struct{}), finished: make(chan struct{}),
	}
	l.room.L = &l.mu
	if err := l.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger %s: %w", dir, err), unlock())
	}
	go l.write()
	return l, nil
}

func openFile(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// recover repairs the last segment and finds the number to go on with.
func (l *Log) recover() error {
	segments, err := segmentsOf(l.dir)
	if err != nil {
		return err
	}
	for i, name := range slices.Backward(segments) {
		path := filepath.Join(l.dir, name)
		if i == len(segments)-1 {
			if err := l.repair(path); err != nil {
				return err
			}
			l.writer.day = strings.TrimSuffix(name, segmentEnd)
		}
		last, err := lastLine(path)
		if err != nil {
			return err
		}
		if r, err := parse(last); err == nil {
			l.seq, l.durable = r.Seq, r.Seq
			return nil
		} else if len(last) > 0 {
			return fmt.Errorf("%s: the last line is %w", path, err)
		}
	}
	return nil
}

// repair sets aside what follows the last whole line.
func (l *Log) repair(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end, err := lastNewline(f, info.Size())
	if err != nil || end == info.Size() {
		return err
	}
	torn := make([]byte, min(info.Size()-end, maxLine))
	if _, err := f.ReadAt(torn, end); err != nil {
		return err
	}
	aside, err := os.OpenFile(path+".torn", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = aside.Write(append(torn, '\n'))
	if err = errors.Join(err, aside.Sync(), aside.Close()); err != nil {
		return err
	}
	l.Repaired = info.Size() - end
	return errors.Join(f.Truncate(end), f.Sync())
}

// lastNewline is the offset after the last newline before end, 0 for none.
func lastNewline(f io.ReaderAt, end int64) (int64, error) {
	b := make([]byte, 64<<10)
	for end > 0 {
		n := min(end, int64(len(b)))
		if _, err := f.ReadAt(b[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(b[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

func lastLine(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil, err
	}
	start, err := lastNewline(f, info.Size()-1)
	if err != nil {
		return nil, err
	}
	line := make([]byte, min(info.Size()-start, maxLine))
	_, err = f.ReadAt(line, start)
	return bytes.TrimSuffix(line, []byte("\n")), err
}

// buffers are where records are put into words before they get in line.
var buffers = sync.Pool{New: func() any { return new([1024]byte) }}

// Append adds a record. It does not wait for the disk, unless so many records
// wait already that there is room for no more: then it waits up to a second.
// When it returns nil the record will be in the ledger, or Err goes on saying
// why it is not yet.
func (l *Log) Append(r Record) error {
	scratch := buffers.Get().(*[1024]byte)
	line := r.appendTo(scratch[:0])
	defer buffers.Put(scratch)

	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting)+len(line) > l.o.Buffer && !l.makeRoom(len(line)) {
		return cmp.Or(l.err, ErrFull)
	}
	if l.closed {
		return ErrClosed
	}
	l.seq++
	l.waiting = append(l.waiting, `{"seq":`...)
	l.waiting = strconv.AppendUint(l.waiting, l.seq, 10)
	l.waiting = append(l.waiting, ',')
	l.waiting = append(l.waiting, line...)
	l.poke()
	return nil
}

// makeRoom waits until n more bytes may wait, for a second at most.
func (l *Log) makeRoom(n int) bool {
	late := false
	timer := time.AfterFunc(time.Second, func() {
		l.mu.Lock()
		late = true
		l.mu.Unlock()
		l.room.Broadcast()
	})
	defer timer.Stop()
	for len(l.waiting)+n > l.o.Buffer && !late && !l.closed && l.err == nil {
		l.room.Wait()
	}
	return len(l.waiting)+n <= l.o.Buffer
}

// Err says why records are not on the disk, nil when they are or will be in a
// moment.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	return l.err
}

// Sync waits until what was appended so far is on the disk, or cannot be put
// there.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for seq := l.seq; l.durable < seq && l.err == nil && !l.closed; {
		progress := l.progress
		l.hurried = true
		l.poke()
		l.mu.Unlock()
		<-progress
		l.mu.Lock()
	}
	return l.err
}

// poke wakes the writer.
func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Close writes what waits and closes the ledger. It may be called again.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.finished
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.room.Broadcast()
	l.poke()
	<-l.finished
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.err, l.unlock())
}
