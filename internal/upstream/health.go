package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"gatehouse/internal/ollama"
)

// maxReply bounds what a server may answer to a health check, in bytes.
const maxReply = 8 << 20

// silent is for what ReverseProxy would log: it is in the ledger.
var silent = log.New(io.Discard, "", 0)

// Run looks after the servers until ctx ends: whether each answers, what models
// it has and which of them are in memory.
func (p *Pool) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range p.servers {
		wg.Go(func() {
			for {
				s.look(ctx)
				// Not all at the same moment.
				wait := time.NewTimer(askEvery*3/4 + rand.N(askEvery/2))
				select {
				case <-wait.C:
				case <-ctx.Done():
					wait.Stop()
					return
				}
			}
		})
	}
	wg.Wait()
}

// look asks one server how it is.
func (s *server) look(ctx context.Context) {
	s.wire.rest(time.Now())
	is, err := s.ask(ctx)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if healthy := err == nil; healthy != s.healthy {
		s.healthy, s.since = healthy, time.Now()
	}
	s.err = err
	if err == nil {
		s.version, s.digests, s.loaded, s.remote = is.version, is.digests, is.loaded, is.remote
		s.models = slices.Sorted(maps.Keys(is.digests))
		s.failures, s.until = 0, time.Time{}
	}
}

// answers is what a server says of itself; models go by their canonical names.
type answers struct {
	version        string
	digests        map[string]string // of every model that is there
	loaded, remote []string
}

func (s *server) ask(ctx context.Context) (is answers, err error) {
	body, err := s.get(ctx, "/api/version")
	if err != nil {
		return is, err
	}
	v, err := ollama.ParseVersion(body)
	if err != nil {
		return is, errors.New("/api/version: not Ollama's answer")
	}
	is.version = v.Version
	if body, err = s.get(ctx, "/api/tags"); err != nil {
		return is, err
	}
	tags, err := ollama.ParseTags(body)
	if err != nil {
		return is, errors.New("/api/tags: not Ollama's answer")
	}
	is.digests = make(map[string]string, len(tags.Models))
	for _, m := range tags.Models {
		name := ollama.CanonicalName(m.Name)
		is.digests[name] = m.Digest
		if m.RemoteHost != "" || m.RemoteModel != "" {
			is.remote = append(is.remote, name)
		}
	}
	// Releases before 0.1.38 have no /api/ps; that makes none of them ill.
	if body, err := s.get(ctx, "/api/ps"); err == nil {
		if ps, err := ollama.ParsePs(body); err == nil {
			for _, m := range ps.Models {
				is.loaded = append(is.loaded, ollama.CanonicalName(m.Name))
			}
		}
	}
	return is, nil
}

func (s *server) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base.JoinPath(path).String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.rest.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if len(body) > maxReply {
		err = fmt.Errorf("%s: longer than %d bytes", path, maxReply)
	}
	return body, err
}

// Status is how one server is.
type Status struct {
	URL      string    `json:"url"`
	Healthy  bool      `json:"healthy"`
	Since    time.Time `json:"since"`
	Error    string    `json:"error,omitzero"`
	Version  string    `json:"version"`
	InFlight int       `json:"in_flight"`
	Slots    int       `json:"slots"`
	Models   []string  `json:"models"`
	Loaded   []string  `json:"loaded"`
}

// Status says how each server is.
func (p *Pool) Status() []Status {
	list := make([]Status, len(p.servers))
	for i, s := range p.servers {
		s.mu.Lock()
		list[i] = Status{
			URL: s.URL.Redacted(), Healthy: s.healthy && !time.Now().Before(s.until), Since: s.since, Version: s.version,
			InFlight: s.inFlight, Slots: s.Slots, Models: slices.Clone(s.models), Loaded: slices.Clone(s.loaded),
		}
		if s.err != nil {
			list[i].Error = s.err.Error()
		}
		s.mu.Unlock()
	}
	return list
}
