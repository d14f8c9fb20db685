// Package dataset reads what others found: the exports of Shodan, Censys,
// masscan, nmap, zmap and Shadowserver, and the records of an earlier wave. It
// yields each as evidence, so that one set of rules judges what was seen and
// what was told. It never asks a host anything.
//
// What an export holds of a host's own words becomes the exchange that they
// answer. What it holds as fields (a version, a list of models) becomes an
// exchange too, re-made in Ollama's shape. Both say in Retold whose telling it
// is, and the rules then make nothing of the form. A product's name is weak: it
// stands for the banner, which alone makes no Ollama. Where an export says only
// that a port is open, nobody asked what is behind it, and the host is Unasked:
// no rule counts that as an open Ollama.
package dataset

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
)

// Row is one place that an export tells of.
type Row struct {
	Line   int // where it begins, from 1
	Host   evidence.Host
	Claims []Claim

	// Verdict is set where the export holds verdicts and not what they rest on,
	// as Gatehouse's own records do. It stands as it is: a proof, or a
	// honeypot's contradictions, cannot be re-made from it, and evidence made up
	// to fit would say what nobody saw. Host has no exchanges then.
	Verdict *finding.Verdict
}

// Claim is what an export says of whoever runs the host.
type Claim struct {
	What       string  // "country", "asn", "network", "name", "hostname", …
	Value      string  // as the export has it, country and number apart
	Source     string  // the export's maker, and the day of the observation
	Confidence float64 // 0 to 1, 0 where the export does not say
}

// Options are how an export is read. The zero Options are fine.
type Options struct {
	Format Format // "" finds out from the content
	// Port is that of rows which name none, as the plain lists of zmap do;
	// default 11434.
	Port uint16
	// Date is when rows that do not say were observed.
	Date time.Time
	// Bad is called with each line that could not be used, unless nil. It does
	// not end the reading.
	Bad func(line int, err error)
	// MaxRecord is how many bytes one record may have; default 16 MiB. It bounds
	// the memory, whatever the file unpacks to.
	MaxRecord int
}

const (
	defaultPort = 11434
	maxRecord   = 16 << 20
	maxDepth    = 64 // of JSON in JSON; the exports nest about ten deep
)

// ErrFormat says that the content is in none of the formats.
var ErrFormat = errors.New("not the export of a program that is known")

var (
	errLong   = errors.New("longer than a record may be")
	errCut    = errors.New("cut off before its end")
	errNoAddr = errors.New("no address")
	errNoPort = errors.New("no port")
)

// Read yields the rows of the export in r, which may be packed with gzip. Its
// memory does not grow with their number. name is for errors. An error that is
// yielded ends the reading: r failed, ctx ended, or the format is not known.
func Read(ctx context.Context, r io.Reader, name string, o Options) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		if err := read(ctx, r, o, yield); err != nil && !errors.Is(err, errStop) {
			yield(Row{}, fmt.Errorf("read %s: %w", name, err))
		}
	}
}

// errStop ends the reading because nobody wants more.
var errStop = errors.New("enough")

// parser turns one record into rows, and may keep a state between records.
type parser interface {
	parse(record []byte, emit func(Row) error) error
}

// frames splits an export into records. What is wrong with one record is a
// badRecord; any other error ends the export.
type frames interface {
	next() (record []byte, line int, err error)
}

// badRecord is an error of one record alone.
type badRecord struct{ error }

func (b badRecord) Unwrap() error { return b.error }

func read(ctx context.Context, r io.Reader, o Options, yield func(Row, error) bool) error {
	if o.Port == 0 {
		o.Port = defaultPort
	}
	if o.MaxRecord <= 0 {
		o.MaxRecord = maxRecord
	}
	in, err := unpacked(r)
	if err != nil {
		return err
	}
	if o.Format == "" {
		if o.Format, err = detect(in); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
	records, p, err := o.Format.reader(in, &o)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		if n%64 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		record, line, err := records.next()
		if err == nil {
			err = p.parse(record, func(row Row) error {
				row.Line = line
				if row.Host.ObservedAt.IsZero() {
					row.Host.ObservedAt = o.Date.UTC()
				}
				if !yield(row, nil) {
					return errStop
				}
				return nil
			})
			if err != nil && !errors.Is(err, errStop) {
				err = badRecord{err}
			}
		}
		if _, bad := errors.AsType[badRecord](err); bad {
			if o.Bad != nil {
				o.Bad(line, errors.Unwrap(err))
			}
			continue
		}
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// unpacked is r without its gzip, if it has one.
func unpacked(r io.Reader) (*bufio.Reader, error) {
	in := bufio.NewReaderSize(r, window)
	if magic, _ := in.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		in = bufio.NewReaderSize(z, window)
	}
	if bom, _ := in.Peek(3); string(bom) == "\xef\xbb\xbf" {
		_, _ = in.Discard(3)
	}
	return in, nil
}

// window is how much of an export is in memory besides its record, and how far
// into it the format is looked for.
const window = 64 << 10

// hostAt begins the evidence of a place.
func hostAt(addr netip.Addr, port uint16) evidence.Host {
	addr = addr.Unmap()
	return evidence.Host{Target: netip.AddrPortFrom(addr, port).String(), Address: addr, Port: port}
}
