package ledger

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// maxLine bounds a line, in bytes. The longest that the log writes is half of it.
const maxLine = 1 << 18

// Query picks records. The zero Query picks all.
type Query struct {
	Key    string // id or name of the identity
	Event  string
	Since  time.Time // zero: from the beginning
	Until  time.Time // exclusive; zero: to the end
	Denied bool      // only requests that were not let in
	Last   int       // only the newest so many, lines that cannot be read included; 0 for all
}

func (q *Query) picks(r *Record) bool {
	switch {
	case q.Key != "" && r.Identity.ID != q.Key && r.Identity.Name != q.Key:
		return false
	case q.Event != "" && r.Event != q.Event:
		return false
	case q.Denied && (r.Event != Request || r.Allowed):
		return false
	case !q.Since.IsZero() && r.Time.Before(q.Since):
		return false
	}
	return q.Until.IsZero() || r.Time.Before(q.Until)
}

// LineError says which line of a ledger cannot be read. Reading goes on after it.
type LineError struct {
	File string // without its folder
	Line int    // the first is 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

var errLong = errors.New("longer than a record can be")

// Read yields the records of the ledger in dir that q picks, in the order in
// which they were written. A line that cannot be read is a *LineError; it goes
// on after that, and after a segment that cannot be read. It may run while a
// gate writes.
func Read(dir string, q Query) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		names, err := segmentsOf(dir)
		if err != nil {
			yield(Record{}, err)
			return
		}
		if q.Last > 0 {
			for _, f := range newest(segmentsAt(dir, names), q) {
				if !yield(f.record, f.err) {
					return
				}
			}
			return
		}
		s := newScan(q)
		for _, segment := range segmentsAt(dir, names) {
			if segment.before(q.Since) {
				continue
			}
			if more, err := s.read(segment, yield); !more || err != nil && !yield(Record{}, err) {
				return
			}
		}
	}
}

// found is what one line gave.
type found struct {
	record Record
	err    error
}

// newest reads backwards from the end and returns the last of what q picks, in
// the order in which it was written. The segments are left read to their ends.
func newest(segments []*segment, q Query) (list []found) {
	for _, s := range slices.Backward(segments) {
		if s.before(q.Since) {
			break
		}
		// Also when there are enough: it is to be left read.
		if err := s.newest(&q, &list); err != nil {
			list = append(list, found{err: err})
		}
	}
	slices.Reverse(list)
	return list
}

// segment is a file of the ledger, and how far it was read.
type segment struct {
	path string
	at   int64
	line int // the number of lines before at; negative when nobody counted
}

func segmentsAt(dir string, names []string) []*segment {
	list := make([]*segment, len(names))
	for i, name := range names {
		list[i] = &segment{path: filepath.Join(dir, name)}
	}
	return list
}

// before reports whether all of the segment is of days before t's. A clock that
// was set back leaves records of earlier days in a segment, never of later ones.
func (s *segment) before(t time.Time) bool {
	day := strings.TrimSuffix(filepath.Base(s.path), segmentEnd)
	return !t.IsZero() && day < t.UTC().Format(time.DateOnly)
}

func (s *segment) bad(line int, err error) error {
	return &LineError{File: filepath.Base(s.path), Line: line, Err: err}
}

// count counts the lines before at, if nobody did.
func (s *segment) count(f io.ReaderAt) (err error) {
	if s.line < 0 {
		s.line, err = newlines(io.NewSectionReader(f, 0, s.at))
	}
	return err
}

// newest adds what q picks of the segment to list, from its end on, up to
// q.Last, and leaves the segment read.
func (s *segment) newest(q *Query, list *[]found) error {
	f, err := os.Open(s.path)
	if err != nil {
		return gone(err)
	}
	defer f.Close()
	size, err := sizeOf(f)
	if err == nil {
		s.at, err = afterNewline(f, size)
	}
	if err != nil {
		return err
	}
	s.line = -1
	after := 0
	for line, err := range backward(io.NewSectionReader(f, 0, s.at)) {
		if err != nil || len(*list) >= q.Last {
			return err
		}
		record, err := Record{}, errLong
		if line != nil {
			record, err = parse(line)
		}
		switch {
		case err != nil:
			if err := s.count(f); err != nil {
				return err
			}
			*list = append(*list, found{err: s.bad(s.line-after, err)})
		case q.picks(&record):
			*list = append(*list, found{record: record})
		}
		after++
	}
	return nil
}

// gone is err, nil for a file that is not there any more: whoever keeps the
// ledger put it away.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// scan reads segments forwards.
type scan struct {
	q            Query
	since, until string // as records have them, to the microsecond
	buf          *bufio.Reader
}

func newScan(q Query) *scan {
	s := &scan{q: q, buf: bufio.NewReaderSize(nil, maxLine)}
	if plain(q.Since) {
		s.since = q.Since.UTC().Format(timeForm)
	}
	if plain(q.Until) {
		s.until = q.Until.UTC().Format(timeForm)
	}
	return s
}

// plain reports whether times in timeForm compare like the times before t.
func plain(t time.Time) bool { return !t.IsZero() && t.Year() > 0 && t.Year() < 9999 }

// passes reports whether a line can be passed over unread, by the time at its
// beginning: most of a long ledger, when little is asked.
func (s *scan) passes(line []byte) bool {
	if s.since == "" && s.until == "" {
		return false
	}
	const before, after = `{"seq":`, `,"time":"`
	i := bytes.IndexByte(line, ',')
	if i < 0 || !bytes.HasPrefix(line, []byte(before)) || !bytes.HasPrefix(line[i:], []byte(after)) || len(line) < i+len(after)+len(timeForm) {
		return false
	}
	at := string(line[i+len(after):][:len(timeForm)])
	if at[len(at)-1] != 'Z' {
		return false
	}
	return s.since != "" && at < s.since || s.until != "" && at > s.until
}

// read yields what is whole from where the segment was left, and reports whether
// more is wanted.
func (s *scan) read(g *segment, yield func(Record, error) bool) (more bool, err error) {
	f, err := os.Open(g.path)
	if err != nil {
		return true, gone(err)
	}
	defer f.Close()
	if size, err := sizeOf(f); err != nil || size <= g.at {
		return true, err
	}
	if _, err := f.Seek(g.at, io.SeekStart); err != nil {
		return true, err
	}
	s.buf.Reset(f)
	for {
		line, err := s.buf.ReadSlice('\n')
		n, long := int64(len(line)), false
		for errors.Is(err, bufio.ErrBufferFull) {
			long = true
			line, err = s.buf.ReadSlice('\n')
			n += int64(len(line))
		}
		if errors.Is(err, io.EOF) {
			return true, nil // a line without its end is one that is being written
		}
		if err != nil {
			return true, err
		}
		g.at += n
		if g.line >= 0 {
			g.line++
		}
		if !long && s.passes(line) {
			continue
		}
		record, err := Record{}, errLong
		if !long {
			record, err = parse(line[:len(line)-1])
		}
		switch {
		case err != nil:
			if err := g.count(f); err != nil {
				return true, err
			}
			if !yield(Record{}, g.bad(g.line, err)) {
				return false, nil
			}
		case s.q.picks(&record):
			if !yield(record, nil) {
				return false, nil
			}
		}
	}
}

// followEvery is how often Follow looks for more.
const followEvery = 200 * time.Millisecond

// Follow is Read that goes on, with what is added, until ctx ends. With q.Last
// it begins with so many. A ledger that is not there yet is waited for.
func Follow(ctx context.Context, dir string, q Query) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		tick := time.NewTicker(followEvery)
		defer tick.Stop()
		s := newScan(q)
		var known []*segment
		begun := false
		for {
			names, err := segmentsOf(dir)
			if gone(err) != nil {
				yield(Record{}, err)
				return
			}
			known = join(known, segmentsAt(dir, names))
			if !begun && q.Last > 0 {
				for _, f := range newest(known, q) {
					if !yield(f.record, f.err) {
						return
					}
				}
			}
			begun = begun || err == nil
			for i, segment := range known {
				// A segment is done with once there is another, but for what came to it
				// while that one was not seen yet.
				if segment.before(q.Since) || segment.at > 0 && i < len(known)-2 {
					continue
				}
				more, err := s.read(segment, yield)
				if err != nil {
					yield(Record{}, err)
				}
				if !more || err != nil {
					return
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// join is the segments there are, as far read as they are known to be.
func join(known, there []*segment) []*segment {
	for i, s := range there {
		if k := slices.IndexFunc(known, func(k *segment) bool { return k.path == s.path }); k >= 0 {
			there[i] = known[k]
		}
	}
	return there
}

// segmentsOf names the segments in dir, in the order of their records.
func segmentsOf(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		day, ok := strings.CutSuffix(e.Name(), segmentEnd)
		if _, err := time.Parse(time.DateOnly, day); ok && err == nil && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func sizeOf(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// afterNewline is the offset after the last newline before end, 0 for none.
func afterNewline(f io.ReaderAt, end int64) (int64, error) {
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

func newlines(r io.Reader) (n int, err error) {
	b := make([]byte, 64<<10)
	for {
		got, err := r.Read(b)
		n += bytes.Count(b[:got], []byte("\n"))
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// sized is a file, or the part of one, that can be read anywhere.
type sized interface {
	io.ReaderAt
	Size() int64
}

// backward yields the lines of f from the last to the first, without their
// newlines; nil for one that is too long. Each holds until the next. All of f is
// whole lines.
func backward(f sized) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		buf := make([]byte, maxLine)
		for end := f.Size(); end > 0; {
			block := buf[:min(end, maxLine)]
			first := end == int64(len(block))
			if _, err := f.ReadAt(block, end-int64(len(block))); err != nil {
				yield(nil, err)
				return
			}
			full := len(block)
			for len(block) > 0 {
				start := bytes.LastIndexByte(block[:len(block)-1], '\n') + 1
				if start == 0 && !first {
					break // its beginning is before the block
				}
				if !yield(block[start:len(block)-1], nil) {
					return
				}
				end -= int64(len(block) - start)
				block = block[:start]
			}
			if len(block) == full {
				start, err := afterNewline(f, end-1)
				if !yield(nil, err) || err != nil {
					return
				}
				end = start
			}
		}
	}
}

// DayUsage is what one identity used on one UTC day.
type DayUsage struct {
	Day       string `json:"day"`
	ID        string `json:"id"`
	Name      string `json:"name"`
	Requests  int64  `json:"requests"`
	Denied    int64  `json:"denied"`
	TokensIn  int64  `json:"tokens_in"`
	TokensOut int64  `json:"tokens_out"`
}

// Usage sums up the requests of each identity from since to until, by day and
// then by name. Who only claimed an identity and could not show it is not
// counted under it. What cannot be read is told in the error, beside the sums
// of all the rest.
func Usage(dir string, since, until time.Time) ([]DayUsage, error) {
	type of struct{ day, id string }
	sums := make(map[of]*DayUsage)
	var errs []error
	for r, err := range Read(dir, Query{Event: Request, Since: since, Until: until}) {
		if errors.Is(err, fs.ErrNotExist) {
			break // no gate has run yet
		}
		if err != nil {
			errs = append(errs[:min(len(errs), maxErrors)], err) // the last stands for the rest
			continue
		}
		if r.Identity.Kind == "" || r.Identity.ID == "" {
			continue
		}
		at := of{r.Time.UTC().Format(time.DateOnly), r.Identity.ID}
		sum := sums[at]
		if sum == nil {
			sum = &DayUsage{Day: at.day, ID: at.id}
			sums[at] = sum
		}
		sum.Name = cmp.Or(r.Identity.Name, sum.Name)
		sum.Requests++
		if !r.Allowed {
			sum.Denied++
		}
		sum.TokensIn += r.TokensIn
		sum.TokensOut += r.TokensOut
	}
	list := make([]DayUsage, 0, len(sums))
	for _, s := range sums {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b DayUsage) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return list, errors.Join(errs...)
}

// maxErrors is how many lines Usage names that it could not read.
const maxErrors = 10
