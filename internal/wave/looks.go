package wave

import (
	"context"
	"errors"
	"iter"
	"net"
	"sync"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama"
	"gatehouse/internal/target"
)

// Watched is what several looks at the open servers of a wave showed.
type Watched struct {
	Activities Activities `json:"activities"`
	Uptimes    Uptimes    `json:"uptimes"`
}

// Add counts the looks at one server.
func (w *Watched) Add(looks []Look) {
	if w.Activities == nil {
		w.Activities, w.Uptimes = make(Activities), make(Uptimes)
	}
	seen := 0
	for i := range looks {
		if looks[i].Answered {
			seen++
		}
	}
	w.Activities[ActivityOf(looks)]++
	w.Uptimes[UptimeOf(seen, len(looks))]++
}

// LookOf is what h shows of a server at work.
func LookOf(h *evidence.Host) Look {
	l := Look{At: h.ObservedAt}
	x := h.Find(evidence.Ps)
	if x == nil || x.Status != 200 || x.Error != "" {
		return l
	}
	reply, err := ollama.ParsePs(x.Body)
	if err != nil {
		return l
	}
	l.Answered = true
	for i := range reply.Models {
		m := &reply.Models[i]
		if !m.ExpiresAt.Odd {
			l.Running = append(l.Running, Loaded{Name: m.Name, ExpiresAt: m.ExpiresAt.Time})
		}
	}
	return l
}

// Again looks once more at places that a wave found open, at the same rate as
// before. A place that does not answer is kept as one that did not. It ends when
// ctx does; what was kept until then need not be looked at again.
func (w *Wave) Again(ctx context.Context, places iter.Seq2[target.Place, error], look func(context.Context, target.Place, net.Conn) evidence.Host, keep func(target.Place, Look) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		place target.Place
		look  Look
	}
	todo, done := make(chan target.Place), make(chan result)
	var feeding, looking sync.WaitGroup
	var unread error // read after feeding.Wait
	feeding.Go(func() {
		defer close(todo)
		for place, err := range places {
			if err != nil {
				unread = err
				return
			}
			select {
			case todo <- place:
			case <-ctx.Done():
				return
			}
		}
	})
	workers := w.Workers
	if workers <= 0 {
		workers = 256
	}
	for range workers {
		looking.Go(func() {
			for place := range todo {
				var host evidence.Host
				if conn, err := w.Dial(ctx, place.AddrPort()); err == nil {
					host = look(ctx, place, conn)
				} else {
					host = unreached(place, err)
				}
				if ctx.Err() != nil {
					return
				}
				done <- result{place, LookOf(&host)}
			}
		})
	}
	go func() {
		looking.Wait()
		close(done)
	}()
	var err error
	for r := range done {
		if err != nil {
			continue
		}
		if err = keep(r.place, r.look); err != nil {
			cancel()
		}
	}
	feeding.Wait()
	if ctx.Err() != nil && err == nil {
		err = ctx.Err()
	}
	return errors.Join(err, unread)
}

// PlaceOf is where the record r is looked at again.
func PlaceOf(r *Record) target.Place {
	s := StateOf(r)
	p := target.Place{Addr: s.Place.Address, Port: r.Port, Name: r.Name, Path: r.Path, Target: r.Target, Scheme: "http"}
	if r.TLS != nil {
		p.Scheme = "https"
	}
	return p
}
