package wave

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// Schedule says when the waves of a watch begin.
type Schedule struct {
	Every  time.Duration
	Jitter float64 // by what share of Every a wave comes earlier or later, 0 to 0.5
}

// Next is when the wave after the one with this name is due. It depends on
// nothing else, so that a watch that starts again goes on as it was: when the
// time is past, however long, there is one wave to make up for, and not many.
func (s Schedule) Next(name string, begun time.Time) time.Time {
	if begun.IsZero() {
		return begun
	}
	sum := sha256.Sum256([]byte(name))
	share := float64(binary.BigEndian.Uint64(sum[:8])>>11)/(1<<52) - 1 // from -1 to below 1
	return begun.Add(s.Every + time.Duration(share*s.Jitter*float64(s.Every)))
}

// Retry is when to try again after so many failures in a row: after a minute,
// then twice as long each time, and never later than a wave would be due anyway.
func (s Schedule) Retry(failures int, failed time.Time) time.Time {
	pause := s.Every
	if n := max(failures, 1) - 1; n < 20 {
		pause = min(time.Minute<<n, s.Every)
	}
	return failed.Add(pause)
}
