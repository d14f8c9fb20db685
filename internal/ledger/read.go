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

// maxLine bounds a line, in bytes. The log writes none of a quarter of it.
const maxLine = 1 << 18

// Query picks records. The zero Query picks all.
type Query struct {
	Key    string // id or name of the identity
	Event  string
	Since  time.Time
	Until  time.Time
	Denied bool // only what was not let in
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
	File string
	Line int
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// Read yields the records of the ledger in dir that q picks, in the order in
// which they were written. A line that cannot be read is a *LineError, after
// which it goes on; any other error ends it. It may run while a gate writes.
func Read(dir string, q Query) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		segments, err := segmentsOf(dir)
		if err != nil {
			yield(Record{}, err)
			return
		}
		for _, name := range segments {
			day := strings.TrimSuffix(name, segmentEnd)
			// A clock set back leaves records of the day before in a segment, never
			// more of a later day than that day's own.
			if !q.Since.IsZero() && day < q.Since.UTC().Format(time.DateOnly) {
				continue
			}
			s := segment{path: filepath.Join(dir, name)}
			if !s.read(q, yield) {
				return
			}
		}
	}
}

// segment is a file of the ledger, and how far it was read.
type segment struct {
	path string
	at   int64
	line int
}

// read yields what is whole from where it stopped before, and reports whether
// to go on.
func (s *segment) read(q Query, yield func(Record, error) bool) bool {
	f, err := os.Open(s.path)
	if err != nil {
		return yield(Record{}, err) && false
	}
	defer f.Close()
	if _, err := f.Seek(s.at, io.SeekStart); err != nil {
		return yield(Record{}, err) && false
	}
	r := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return true // a line without its end is one that is being written
		}
		n := int64(len(line))
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				line, err = r.ReadSlice('\n')
				n += int64(len(line))
			}
			line = nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return yield(Record{}, err) && false
		}
		s.at += n
		s.line++
		record, err := Record{}, errors.New("longer than a record can be")
		if line != nil {
			record, err = parse(bytes.TrimSuffix(line, []byte("\n")))
		}
		switch {
		case err != nil:
			if !yield(Record{}, &LineError{filepath.Base(s.path), s.line, err}) {
				return false
			}
		case q.picks(&record):
			if !yield(record, nil) {
				return false
			}
		}
	}
}

// followEvery is how often Follow looks for more.
const followEvery = 200 * time.Millisecond

// Follow is Read that goes on, with what is added, until ctx ends.
func Follow(ctx context.Context, dir string, q Query) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		tick := time.NewTicker(followEvery)
		defer tick.Stop()
		known := make(map[string]*segment)
		for {
			segments, err := segmentsOf(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				yield(Record{}, err)
				return
			}
			// Of those read to their end only the last two can still grow.
			for i, name := range segments {
				s := known[name]
				if s != nil && i < len(segments)-2 {
					continue
				}
				if s == nil {
					s = &segment{path: filepath.Join(dir, name)}
					known[name] = s
				}
				if !s.read(q, yield) {
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
// then by name. Lines that cannot be read are joined in the error, beside the
// sums of all others.
func Usage(dir string, since, until time.Time) ([]DayUsage, error) {
	type of struct{ day, id string }
	sums := make(map[of]*DayUsage)
	var errs []error
	for r, err := range Read(dir, Query{Event: Request, Since: since, Until: until}) {
		if errors.Is(err, fs.ErrNotExist) {
			break // no gate has run yet
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if r.Identity.Kind == "" { // a stranger, whatever name was given
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
