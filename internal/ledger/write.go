package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// writer puts records on the disk, in its own goroutine.
type writer struct {
	file file
	day  string // of the segment that is open, or was last
	size int64  // of the segment, as far as its lines are whole

	batch    []byte // being written
	batchSeq uint64 // of its last record
	spare    []byte

	unsynced []byte // written since the last sync, to write again if that fails
	durable  int64  // size at the last sync
	last     time.Time

	syncing  bool // one is under way
	syncs    chan error
	syncLen  int // of unsynced, size and batchSeq when it began
	syncSize int64
	syncSeq  uint64

	failing bool
}

// retryEvery is how often a disk that refused is tried again.
const retryEvery = 250 * time.Millisecond

// linger is how long a record waits for others to be written with.
const linger = 2 * time.Millisecond

// write runs until the log is closed and what waits is written, or the disk
// refuses it.
func (l *Log) write() {
	defer close(l.finished)
	w := &l.writer
	w.syncs = make(chan error, 1)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var err error
		select {
		case <-l.wake:
			// Others follow close behind: one write for all of them.
			if closing, hurried := l.asked(); !closing && !hurried {
				time.Sleep(linger)
			}
		case err = <-w.syncs:
			err = l.synced(err)
		case <-timer.C:
		}
		closing, hurried := l.asked()
		if err == nil {
			err = l.step(closing || hurried)
		}
		if closing {
			l.end(err)
			return
		}
		switch {
		case err != nil:
			timer.Reset(retryEvery)
		case len(w.unsynced) > 0 && !w.syncing:
			timer.Reset(max(0, l.o.SyncEvery-time.Since(w.last)))
		default:
			timer.Reset(time.Hour)
		}
	}
}

// end waits for the sync under way, tries once more what failed, and closes.
func (l *Log) end(err error) {
	w := &l.writer
	for range 2 {
		if w.syncing {
			err = l.synced(<-w.syncs)
		}
		if err != nil || len(w.unsynced) > 0 {
			err = l.step(true)
		}
	}
	if w.syncing {
		err = l.synced(<-w.syncs)
	}
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
		w.file = nil
	}
	l.report(err, w.batchSeq)
}

// asked reports whether the log is being closed, and whether somebody waits.
func (l *Log) asked() (closing, hurried bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed, l.hurried
}

// step writes what waits, and syncs when it is time to.
func (l *Log) step(hurried bool) error {
	w := &l.writer
	if err := l.mend(); err != nil {
		return l.fail(err)
	}
	for {
		if len(w.batch) == 0 && !l.take() {
			break
		}
		if err := l.put(); err != nil {
			return l.fail(err)
		}
	}
	if len(w.unsynced) == 0 || w.syncing || !hurried && !w.failing && time.Since(w.last) < l.o.SyncEvery {
		return nil
	}
	// Writing goes on meanwhile: a slow disk must not hold back what a killed
	// process would lose.
	w.syncing, w.syncLen, w.syncSize, w.syncSeq = true, len(w.unsynced), w.size, w.batchSeq
	file := w.file
	go func() { w.syncs <- file.Sync() }()
	return nil
}

// synced takes up how a sync ended.
func (l *Log) synced(err error) error {
	w := &l.writer
	w.syncing, w.last = false, time.Now()
	if err != nil {
		// Now nobody knows what is on the disk: all since the last good sync is
		// written again.
		w.batch = append(w.unsynced, w.batch...)
		w.unsynced = nil
		w.size = w.durable
		return l.fail(fmt.Errorf("sync %s: %w", w.day+segmentEnd, err))
	}
	w.unsynced = append(w.unsynced[:0], w.unsynced[w.syncLen:]...)
	w.durable, w.failing = w.syncSize, false
	l.report(nil, w.syncSeq)
	return nil
}

// take makes what waits the next batch.
func (l *Log) take() bool {
	w := &l.writer
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return false
	}
	w.batch, l.waiting = l.waiting, w.spare[:0]
	w.spare = nil
	w.batchSeq = l.seq
	l.room.Broadcast()
	return true
}

// put writes the batch to the segment of the day. What did not go whole is
// taken back, so that no line is ever torn by a disk that fills up.
func (l *Log) put() error {
	w := &l.writer
	if err := l.turn(); err != nil {
		return err
	}
	n, err := w.file.Write(w.batch)
	if err == nil && n < len(w.batch) {
		err = errors.New("short write")
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", w.day+segmentEnd, errors.Join(err, w.file.Truncate(w.size)))
	}
	w.size += int64(n)
	w.unsynced = append(w.unsynced, w.batch...)
	if cap(w.batch) <= l.o.Buffer {
		w.spare = w.batch
	}
	w.batch = nil
	return nil
}

// turn opens the segment of today. A clock that was set back does not lead
// back: the ledger goes on where it was.
func (l *Log) turn() error {
	w := &l.writer
	day := l.o.now().UTC().Format(time.DateOnly)
	if w.file != nil && day <= w.day {
		return nil
	}
	if w.file != nil {
		if w.syncing {
			if err := l.synced(<-w.syncs); err != nil {
				return err
			}
		}
		if err := w.file.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", w.day+segmentEnd, err)
		}
		if err := w.file.Close(); err != nil {
			return fmt.Errorf("close %s: %w", w.day+segmentEnd, err)
		}
		w.file, w.unsynced = nil, nil
	}
	w.day = max(day, w.day)
	return l.reopen()
}

func (l *Log) reopen() error {
	w := &l.writer
	path := filepath.Join(l.dir, w.day+segmentEnd)
	f, err := l.o.open(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.file, w.size, w.durable = f, info.Size(), info.Size()
	return syncDir(l.dir)
}

// mend makes the segment whole again after something failed.
func (l *Log) mend() error {
	w := &l.writer
	if !w.failing || w.file == nil {
		return nil
	}
	return w.file.Truncate(w.size)
}

func (l *Log) fail(err error) error {
	l.writer.failing = true
	l.report(err, 0)
	return err
}

// report tells those who wait how far the writer is.
func (l *Log) report(err error, durable uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	if err == nil {
		l.durable, l.hurried = max(l.durable, durable), false
	}
	close(l.progress)
	l.progress = make(chan struct{})
	l.room.Broadcast()
}

// syncDir makes a new file's name outlast a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
