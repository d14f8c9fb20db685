package store

import (
	_ "embed"
	"fmt"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"
)

// What a host said and what it was taken for is kept as CBOR (RFC 8949), which
// holds bytes as they are, under zstd (RFC 8878) with a dictionary of what
// servers usually say: one record is too short to be compressed by itself.

// words is the dictionary. What is in a store was written with it, so it is
// never changed: a better one gets a number of its own beside it.
//
//go:embed words.txt
var words []byte

const wordsID = 1

// maxPacked bounds one record or one host's evidence, in bytes before it is
// compressed. A probe reads 8 MiB of a host.
const maxPacked = 64 << 20

// packer packs and unpacks. It is safe for any number of callers.
type packer struct {
	enc  *zstd.Encoder
	dec  *zstd.Decoder
	cbor cbor.EncMode
	read cbor.DecMode
	buf  sync.Pool // of *[]byte
}

var packing = sync.OnceValues(newPacker)

func newPacker() (*packer, error) {
	p := &packer{buf: sync.Pool{New: func() any { return new([]byte) }}}
	var err error
	if p.enc, err = zstd.NewWriter(nil, zstd.WithEncoderDictRaw(wordsID, words), zstd.WithEncoderCRC(true),
		zstd.WithWindowSize(1<<20)); err != nil {
		return nil, err
	}
	if p.dec, err = zstd.NewReader(nil, zstd.WithDecoderDictRaw(wordsID, words), zstd.WithDecoderMaxMemory(maxPacked)); err != nil {
		return nil, err
	}
	// Times to the nanosecond; texts of hosts may not be UTF-8, and an address is
	// a text as it is in JSON.
	o := cbor.EncOptions{Time: cbor.TimeRFC3339NanoUTC, TextMarshaler: cbor.TextMarshalerTextString, Sort: cbor.SortNone}
	if p.cbor, err = o.EncMode(); err != nil {
		return nil, err
	}
	d := cbor.DecOptions{
		UTF8: cbor.UTF8DecodeInvalid, TextUnmarshaler: cbor.TextUnmarshalerTextString,
		DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxArrayElements: 1 << 20, MaxMapPairs: 1 << 16, MaxNestedLevels: 16,
	}
	if p.read, err = d.DecMode(); err != nil {
		return nil, err
	}
	return p, nil
}

// pack returns v as it is kept.
func pack(v any) ([]byte, error) {
	p, err := packing()
	if err != nil {
		return nil, err
	}
	plain, err := p.cbor.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", reflect.TypeOf(v), err)
	}
	if len(plain) > maxPacked {
		return nil, fmt.Errorf("pack %s: longer than %d bytes", reflect.TypeOf(v), maxPacked)
	}
	return p.enc.EncodeAll(plain, make([]byte, 0, len(plain)/4+64)), nil
}

// unpack reads what pack returned into v.
func unpack(packed []byte, v any) error {
	p, err := packing()
	if err != nil {
		return err
	}
	buf := p.buf.Get().(*[]byte)
	defer p.buf.Put(buf)
	plain, err := p.dec.DecodeAll(packed, (*buf)[:0])
	if cap(plain) < 1<<20 {
		*buf = plain
	}
	if err == nil {
		err = p.read.Unmarshal(plain, v)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}
