package sweep

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"time"

	"gatehouse/internal/scope"
	"gatehouse/internal/target"
)

// DryRun writes what Run would send to w instead, in pcap format, with the time
// at which each packet's turn would be at rate packets a second: one SYN to each
// place that is not Unasked, and nothing again. It returns how many.
func (s *SYN) DryRun(ctx context.Context, w io.Writer, walk *target.Walk, rate float64) (n uint64, err error) {
	if s.Allows == nil {
		return 0, scope.ErrNoScope
	}
	var ways [2]*way
	k := newKey()
	for _, l := range s.Links {
		ways[family(l.Source)] = &way{link: l, frames: newFrames(k, sourcePorts(), l.Source, l.MAC, l.NextHop)}
	}
	out := bufio.NewWriterSize(w, 1<<16)
	// The header says: times in nanoseconds, version 2.4, Ethernet
	// (https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html).
	header := make([]byte, 24)
	binary.LittleEndian.PutUint32(header, 0xa1b23c4d)
	binary.LittleEndian.PutUint16(header[4:], 2)
	binary.LittleEndian.PutUint16(header[6:], 4)
	binary.LittleEndian.PutUint32(header[16:], 1<<16-1)
	binary.LittleEndian.PutUint32(header[20:], 1)
	if _, err := out.Write(header); err != nil {
		return 0, err
	}
	start := time.Now()
	record := make([]byte, 16+maxFrame)
	for rank := range walk.Count() {
		if rank%chunk == 0 && ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		_, addr, bare := walk.Nth(rank)
		way := ways[family(addr.Addr())]
		if !bare || way == nil || way.link.Elsewhere.Contains(addr.Addr()) || s.Allows(addr.Addr()) != nil {
			continue
		}
		at := start.Add(time.Duration(float64(n) * gap(rate)))
		length := way.write(record[16:], addr)
		binary.LittleEndian.PutUint32(record, uint32(at.Unix()))
		binary.LittleEndian.PutUint32(record[4:], uint32(at.Nanosecond()))
		binary.LittleEndian.PutUint32(record[8:], uint32(length))
		binary.LittleEndian.PutUint32(record[12:], uint32(length))
		if _, err := out.Write(record[:16+length]); err != nil {
			return n, err
		}
		n++
	}
	return n, out.Flush()
}
