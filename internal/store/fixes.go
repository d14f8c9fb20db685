package store

import (
	"context"
	"time"

	"gatehouse/internal/wave"
)

const spells = `SELECT s.host, s.at, s.findings, s.provider FROM seen s JOIN waves w ON w.id = s.wave
	WHERE w.scope = $1 AND w.ended <> 0 ORDER BY s.host, w.started`

// Fixes is how long the findings of a scope lasted, over all its waves that came
// to their end: from the wave that first had one to the one that saw the place
// without it. What is open still, or was not seen again, is counted as far as it
// was watched.
func (s *Store) Fixes(scope string) (*wave.Fixes, error) {
	names := make(map[int]string)
	ctx := context.Background() // many waves take as long as they take
	bits, err := s.slow.QueryContext(ctx, allFindings)
	if err != nil {
		return nil, s.failed(err)
	}
	defer bits.Close()
	for bits.Next() {
		var bit int
		var id string
		if err := bits.Scan(&bit, &id); err != nil {
			return nil, s.failed(err)
		}
		names[bit] = id
	}
	if err := bits.Err(); err != nil {
		return nil, s.failed(err)
	}

	rows, err := s.slow.QueryContext(ctx, spells, scope)
	if err != nil {
		return nil, s.failed(err)
	}
	defer rows.Close()
	var fixes wave.Fixes
	of, last := int64(-1), int64(0)
	began, provider := make(map[int]int64), ""
	end := func() {
		for bit, since := range began {
			fixes.Add(names[bit], provider, time.Duration(last-since)*time.Millisecond, false)
		}
		clear(began)
	}
	for rows.Next() {
		var host, at, mask int64
		var by string
		if err := rows.Scan(&host, &at, &mask, &by); err != nil {
			return nil, s.failed(err)
		}
		if host != of {
			end()
			of = host
		}
		last, provider = at, by
		for bit := range names {
			since, open := began[bit]
			switch has := mask>>bit&1 != 0; {
			case has && !open:
				began[bit] = at
			case !has && open:
				fixes.Add(names[bit], provider, time.Duration(at-since)*time.Millisecond, true)
				delete(began, bit)
			}
		}
	}
	end()
	if err := rows.Err(); err != nil {
		return nil, s.failed(err)
	}
	return &fixes, nil
}
