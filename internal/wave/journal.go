package wave

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/flock"
)

// Journal is a Keeper: the records of a wave and how far it got, in one file of
// JSON lines that only grows. A record is in the file before anybody is told of it,
// so that a wave that is killed at any moment goes on where it was, with no
// host lost and none twice. A line that was cut off by the end of the program
// is not counted.
type Journal struct {
	Header Header

	f     *os.File
	temp  string // its path, if it goes with the journal and could not while it is open
	end   int64  // where the next line goes
	done  Mark
	late  []late // records at or above the mark
	dirty bool
	buf   bytes.Buffer
}

// Header says which wave a journal belongs to. Two waves with the same Plan
// walk the same places in the same order, and ask and keep the same.
type Header struct {
	Format  string    `json:"gatehouse"` // journalFormat
	Wave    string    `json:"wave"`
	Plan    string    `json:"plan"`
	Seed    uint64    `json:"seed"`
	Started time.Time `json:"started"`
}

const journalFormat = "journal/1"

// maxLine is the longest line a journal may have, in bytes: the record of a
// host with as many models as are read from one, and to spare.
const maxLine = 64 << 20

type journalLine struct {
	Pos    uint64  `json:"pos,omitzero"`
	Record *Record `json:"record,omitzero"`
	Mark   *Mark   `json:"mark,omitzero"`
}

type late struct {
	pos    uint64
	counts Counts
}

// ErrOtherPlan says that a journal belongs to a wave over other places.
var ErrOtherPlan = errors.New("state of another scan")

// OpenJournal opens the journal at path, or makes one with header h. When there
// is one, its header counts: its Plan has to be h's, or the error wraps
// ErrOtherPlan. Only one process can have it open.
func OpenJournal(path string, h Header) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	j := &Journal{f: f}
	if err := j.load(h); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("state %s: %w", path, err)
	}
	return j, nil
}

// ReadHeader reads the header of the journal at path.
func ReadHeader(path string) (Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return Header{}, err
	}
	defer f.Close()
	var h Header
	for line, err := range (&Journal{f: f}).lines() {
		if err == nil {
			err = json.Unmarshal(line, &h)
		}
		return h, err
	}
	return h, io.ErrUnexpectedEOF
}

// TempJournal makes a journal that is gone when it is closed, and on most
// systems when the program ends, however that ends.
func TempJournal(h Header) (*Journal, error) {
	f, err := os.CreateTemp("", "gatehouse-")
	if err != nil {
		return nil, err
	}
	j := &Journal{f: f}
	if os.Remove(f.Name()) != nil { // as on Windows, where an open file stays
		j.temp = f.Name()
	}
	if err := j.load(h); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

func (j *Journal) load(h Header) error {
	if err := flock.Lock(j.f); err != nil {
		if errors.Is(err, flock.ErrHeld) {
			err = errors.New("another scan is using it")
		}
		return err
	}
	h.Format = journalFormat
	first := true
	for line, err := range j.lines() {
		if err != nil {
			return err
		}
		if first {
			first = false
			if err := json.Unmarshal(line, &j.Header); err != nil || j.Header.Format != journalFormat {
				return errors.New("not a state file of gatehouse's")
			}
			if j.Header.Plan != h.Plan {
				return fmt.Errorf("%w: other targets, ports, seed, shard or sample, or other things asked or kept", ErrOtherPlan)
			}
			continue
		}
		var l journalLine
		if err := json.Unmarshal(line, &l); err != nil {
			return fmt.Errorf("damaged at byte %d: %w", j.end, err)
		}
		switch {
		case l.Mark != nil:
			j.done = *l.Mark
		case l.Record != nil:
			var c Counts
			c.Add(l.Record)
			j.late = append(j.late, late{l.Pos, c})
		}
	}
	kept := j.late[:0]
	for _, l := range j.late {
		if l.pos >= j.done.At {
			kept = append(kept, l)
		}
	}
	j.late = kept
	if first && !j.cutOff() {
		return errors.New("not a state file of gatehouse's")
	}
	if err := j.f.Truncate(j.end); err != nil {
		return err
	}
	if first {
		j.Header = h
		return j.write(h)
	}
	return nil
}

// cutOff reports whether a file without a whole line is empty, or the beginning
// of a header. Anything else is somebody's file, and not to be written over.
func (j *Journal) cutOff() bool {
	begin := []byte(`{"gatehouse":"`)
	b := make([]byte, len(begin))
	n, err := j.f.ReadAt(b, 0)
	return (err == nil || err == io.EOF) && bytes.HasPrefix(begin, b[:n])
}

// lines yields the whole lines of the file and leaves end behind the last.
func (j *Journal) lines() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		j.end = 0
		scan := bufio.NewScanner(io.NewSectionReader(j.f, 0, 1<<62))
		scan.Buffer(make([]byte, 64<<10), maxLine)
		scan.Split(wholeLines)
		for scan.Scan() {
			if !yield(scan.Bytes(), nil) {
				return
			}
			j.end += int64(len(scan.Bytes())) + 1
		}
		if err := scan.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// wholeLines splits at line ends and drops what follows the last one.
func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF {
		return len(data), nil, nil
	}
	return 0, nil, nil
}

// Records yields every record in the journal, as they came. It must not be
// used while a wave is running.
func (j *Journal) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		first := true
		for line, err := range j.lines() {
			if err != nil {
				yield(Record{}, err)
				return
			}
			if first {
				first = false
				continue
			}
			var l journalLine
			if err := json.Unmarshal(line, &l); err != nil {
				yield(Record{}, err)
				return
			}
			if l.Record != nil && !yield(*l.Record, nil) {
				return
			}
		}
	}
}

// Close writes all to the disk and lets go of the file.
func (j *Journal) Close() error {
	err := errors.Join(j.sync(), j.f.Close())
	if j.temp != "" {
		err = errors.Join(err, os.Remove(j.temp))
		j.temp = ""
	}
	return err
}

// Keep writes the records, one line each. The evidence is not kept.
func (j *Journal) Keep(list []Observation) error {
	for i := range list {
		if err := j.write(journalLine{Pos: list[i].Pos, Record: &list[i].Record}); err != nil {
			return err
		}
	}
	return nil
}

// Mark writes how far the wave got and brings all to the disk.
func (j *Journal) Mark(m Mark) error {
	if m.At > j.done.At {
		if err := j.write(journalLine{Mark: &m}); err != nil {
			return err
		}
		j.done = m
	}
	return j.sync()
}

func (j *Journal) write(v any) error {
	j.buf.Reset()
	if err := json.MarshalWrite(&j.buf, v, jsontext.AllowInvalidUTF8(true)); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	j.buf.WriteByte('\n')
	n, err := j.f.WriteAt(j.buf.Bytes(), j.end)
	if err != nil {
		// Half a line would be taken for a damaged file once more follows.
		_ = j.f.Truncate(j.end)
		return fmt.Errorf("write state: %w", err)
	}
	j.end += int64(n)
	j.dirty = true
	return nil
}

func (j *Journal) sync() error {
	if !j.dirty {
		return nil
	}
	j.dirty = false
	if err := j.f.Sync(); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// Resume says what earlier runs kept.
func (j *Journal) Resume() (Progress, error) {
	p := Progress{Mark: j.done, Late: make(map[uint64]Counts, len(j.late))}
	for _, l := range j.late {
		p.Late[l.pos] = l.counts
	}
	return p, nil
}
