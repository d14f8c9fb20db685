package store

import (
	"context"
	"time"
)

// Status is how a store is.
type Status struct {
	Kind    string `json:"kind"` // sqlite or postgres
	Place   string `json:"place"`
	Version string `json:"version"` // of SQLite or PostgreSQL
	Level
	Bytes int64 `json:"bytes"` // on the disk

	Keys         int64 `json:"keys"`
	Waves        int64 `json:"waves"`
	Unfinished   int64 `json:"unfinished"` // waves that did not come to their end
	Hosts        int64 `json:"hosts"`
	Observations int64 `json:"observations"`
	Notes        int64 `json:"notes"`
	Watches      int64 `json:"watches"`
	Letters      int64 `json:"letters"`
}

// maxCount bounds how long Status counts.
const maxCount = 10 * time.Minute

// Status counts what is in the store. It reads an index of all observations.
func (s *Store) Status() (*Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), maxCount)
	defer cancel()
	st := &Status{Place: s.place, Level: s.state}
	if err := s.sized(ctx, st); err != nil {
		return nil, s.failed(err)
	}
	for _, c := range []struct {
		n    *int64
		from string
	}{
		{&st.Keys, "keys"},
		{&st.Waves, "waves"},
		{&st.Unfinished, "waves WHERE ended = 0"},
		{&st.Hosts, "hosts"},
		{&st.Observations, "seen"},
		{&st.Notes, "notes"},
		{&st.Watches, "watches"},
		{&st.Letters, "letters"},
	} {
		if err := s.slow.QueryRowContext(ctx, `SELECT count(*) FROM `+c.from).Scan(c.n); err != nil {
			return nil, s.failed(err)
		}
	}
	return st, nil
}
