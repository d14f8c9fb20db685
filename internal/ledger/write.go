package ledger

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// writer puts records on the disk, in its own goroutine.
//
// What was written stays in memory until it is synced. After a sync that failed
// nobody knows what is on the disk, and the next one may well succeed all the
// same, for the kernel has let go of the pages: so all since the last good sync
// is written again, the same bytes in the same place.
type writer struct {
	file file
	day  string // of the segment that is open, or was last
	size int64  // of the segment up to the batch: whole lines

	batch []byte // being written
	done  int    // bytes of it that are
	fixed bool   // its place is in this segment, though midnight has passed
	seq   uint64 // of its last record
	spare []byte // an empty batch to use again

	written  []byte     // but not synced, nor about to be
	wrote    uint64     // the last record of these
	covered  []byte     // by the sync that runs
	coverSeq uint64     // the last record of these
	running  bool       // a sync does
	synced   chan error // how it ended

	lastSync time.Time // when it began
	failing  bool
	refused  bool      // it was the last write that failed
	tried    time.Time // when it failed
}

const (
	// retryEvery is how often a disk that refused is tried again.
	retryEvery = 250 * time.Millisecond
	// linger is how long a record waits for others, to be written with them.
	linger = 10 * time.Millisecond
	// keep is the largest buffer that is used again, in bytes.
	keep = 4 << 20
)

// write runs until the log is closed and what waits is written, or the disk
// refuses it.
func (l *Log) write() {
	defer close(l.finished)
	w := &l.writer
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-l.wake:
			if closing, hurried := l.asked(); !closing && !hurried {
				time.Sleep(linger)
			}
		case err := <-w.synced:
			l.endSync(err)
		case <-timer.C:
		}
		closing, hurried := l.asked()
		if closing {
			l.finish()
			return
		}
		l.step(hurried)
		switch {
		case w.failing:
			timer.Reset(max(0, retryEvery-time.Since(w.tried)))
		case len(w.written) > 0 && !w.running:
			timer.Reset(max(0, l.o.SyncEvery-time.Since(w.lastSync)))
		default:
			timer.Reset(time.Hour)
		}
	}
}

// asked reports whether the log is being closed, and whether somebody waits.
func (l *Log) asked() (closing, hurried bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed, l.wanted > l.durable
}

// step writes what waits, and begins to sync when it is time to. Writing goes
// on during a sync: a slow disk must not hold back what a killed process loses.
func (l *Log) step(hurried bool) {
	w := &l.writer
	if w.failing && time.Since(w.tried) < retryEvery {
		return
	}
	for len(w.written) < l.o.Buffer && (len(w.batch) > 0 || l.take()) {
		if w.old(l.o.now()) && (w.running || len(w.written) > 0) {
			hurried = true // the segment of the day before is closed once it is synced
			break
		}
		if err := l.put(); err != nil {
			w.refused = true
			l.fail(err)
			return
		}
	}
	due := hurried || w.failing || len(w.written) >= l.o.Buffer || time.Since(w.lastSync) >= l.o.SyncEvery
	if len(w.written) > 0 && !w.running && due {
		l.beginSync()
	}
}

// take makes what waits the next batch. When records were lost because the disk
// took none, the first batch after says so.
func (l *Log) take() bool {
	w := &l.writer
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost > 0 {
		r := Record{Time: l.o.now(), Event: "lost", Detail: fmt.Sprintf("%d records found no room while the disk took none", l.lost)}
		l.lost = 0
		l.add(r.appendTo(nil))
	}
	if len(l.waiting) == 0 {
		return false
	}
	w.batch, l.waiting, w.spare = l.waiting, w.spare[:0], nil
	w.seq, w.done, w.fixed = l.seq, 0, false
	l.tell()
	return true
}

// put writes the batch, or what is left of it, to the segment of the day.
func (l *Log) put() error {
	w := &l.writer
	defer l.watch(&l.writing)()
	if w.file == nil || w.old(l.o.now()) {
		if err := l.turn(); err != nil {
			return err
		}
	}
	n, err := w.file.WriteAt(w.batch[w.done:], w.size+int64(w.done))
	if n > 0 {
		w.done += n
		w.fixed = true
	}
	if err == nil && w.done < len(w.batch) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return err
	}
	w.size += int64(len(w.batch))
	w.written = append(w.written, w.batch...)
	w.wrote = w.seq
	if cap(w.batch) <= keep {
		w.spare = w.batch
	}
	w.batch, w.fixed, w.refused = nil, false, false
	return nil
}

// old reports whether the open segment is of a day before now's, and done with.
// A clock that was set back does not lead back: the ledger goes on where it
// was, so that its segments are in the order of their records.
func (w *writer) old(now time.Time) bool {
	return w.file != nil && !w.fixed && now.UTC().Format(time.DateOnly) > w.day
}

// turn opens the segment of the day, and closes the one before, which is
// synced.
func (l *Log) turn() error {
	w := &l.writer
	if w.file != nil {
		err := w.file.Close()
		w.file = nil
		if err != nil {
			return err
		}
	}
	day := max(l.o.now().UTC().Format(time.DateOnly), w.day)
	path := filepath.Join(l.dir, day+segmentEnd)
	f, err := l.o.open(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err == nil {
		err = syncDir(l.dir) // so that a new file's name outlasts a power cut
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.file, w.day, w.size = f, day, info.Size()
	return nil
}

func (l *Log) beginSync() {
	w := &l.writer
	w.covered, w.written = w.written, w.covered[:0]
	w.coverSeq, w.running, w.lastSync = w.wrote, true, time.Now()
	f, end := w.file, l.watch(&l.syncing)
	go func() {
		err := f.Sync()
		end()
		w.synced <- err
	}()
}

func (l *Log) endSync(err error) {
	w := &l.writer
	w.running = false
	if err != nil {
		w.size -= int64(len(w.covered) + len(w.written))
		w.batch = append(append(w.covered, w.written...), w.batch...)
		w.covered, w.written, w.done, w.fixed = nil, nil, 0, true
		l.fail(err)
		return
	}
	if cap(w.covered) > keep {
		w.covered = nil
	}
	if !w.refused {
		w.failing = false
		l.failed.Store(nil)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.durable = max(l.durable, w.coverSeq)
	l.tell()
}

// fail tells all what the disk said. It is tried again after a while.
func (l *Log) fail(err error) {
	w := &l.writer
	w.failing, w.tried = true, time.Now()
	err = fmt.Errorf("ledger: %w", err)
	l.failed.Store(&err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = 0 // who waits gets the error
	l.tell()
}

// tell wakes those who wait for the writer. The caller holds the lock.
func (l *Log) tell() {
	close(l.progress)
	l.progress = make(chan struct{})
}

// finish writes and syncs what there is, or tries once, and closes the segment.
func (l *Log) finish() {
	w := &l.writer
	if w.running {
		l.endSync(<-w.synced)
	}
	err := func() error {
		for len(w.batch) > 0 || l.take() {
			if w.old(l.o.now()) {
				if err := l.syncNow(); err != nil {
					return err
				}
			}
			if err := l.put(); err != nil {
				return err
			}
		}
		return l.syncNow()
	}()
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
	}
	if err != nil {
		l.fail(fmt.Errorf("the last records may be lost: %w", err))
		return
	}
	l.failed.Store(nil)
}

func (l *Log) syncNow() error {
	w := &l.writer
	if len(w.written) == 0 {
		return nil
	}
	defer l.watch(&l.syncing)()
	w.written = w.written[:0]
	return w.file.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
