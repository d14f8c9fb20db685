package store

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/s2"
)

// What a host said and what it was taken for is kept as CBOR (RFC 8949), which
// holds bytes as they are, compressed as one S2 block with a dictionary of what
// servers usually say, for one record is too short to be compressed by itself.
// Before the block stand the number of the dictionary and a checksum: a page
// that the disk gave back wrong is told from what a host said.

// words is the dictionary. What is in a store was written with it, so it is
// never changed: a better one gets a number of its own beside it.
//
//go:embed words.txt
var words []byte

const (
	wordsID  = 1
	packHead = 1 + 4
)

// maxPacked bounds one record or one host's evidence, in bytes before it is
// compressed. A probe reads 8 MiB of a host.
const maxPacked = 64 << 20

// packer packs and unpacks. It is safe for any number of callers.
type packer struct {
	words *s2.Dict
	cbor  cbor.EncMode
	read  cbor.DecMode
	buf   sync.Pool // of *[]byte
}

var packing = sync.OnceValues(newPacker)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newPacker() (*packer, error) {
	p := &packer{words: s2.MakeDict(words, nil), buf: sync.Pool{New: func() any { return new([]byte) }}}
	if p.words == nil {
		return nil, errors.New("the dictionary is none")
	}
	// Times to the nanosecond; texts of hosts may not be UTF-8, and an address is
	// a text as it is in JSON.
	o := cbor.EncOptions{Time: cbor.TimeRFC3339NanoUTC, TextMarshaler: cbor.TextMarshalerTextString, Sort: cbor.SortNone}
	var err error
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
	buf := p.buf.Get().(*[]byte)
	defer p.buf.Put(buf)
	block := p.words.Encode((*buf)[:cap(*buf)], plain)
	if cap(block) < 1<<20 {
		*buf = block
	}
	packed := make([]byte, packHead, packHead+len(block))
	packed[0] = wordsID
	packed = append(packed, block...)
	binary.LittleEndian.PutUint32(packed[1:], crc32.Checksum(packed[packHead:], castagnoli))
	return packed, nil
}

// unpack reads what pack returned into v.
func unpack(packed []byte, v any) error {
	p, err := packing()
	if err != nil {
		return err
	}
	if len(packed) < packHead || packed[0] != wordsID {
		return fmt.Errorf("%w: not packed by this release", ErrDamaged)
	}
	block := packed[packHead:]
	if crc32.Checksum(block, castagnoli) != binary.LittleEndian.Uint32(packed[1:]) {
		return fmt.Errorf("%w: wrong checksum", ErrDamaged)
	}
	if n, err := s2.DecodedLen(block); err != nil || n > maxPacked {
		return fmt.Errorf("%w: a block of %d bytes", ErrDamaged, n)
	}
	buf := p.buf.Get().(*[]byte)
	defer p.buf.Put(buf)
	plain, err := p.words.Decode((*buf)[:cap(*buf)], block)
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
