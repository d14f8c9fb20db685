// Package vantage looks back at whoever asks, from where it stands, so that a
// machine can learn how it looks from outside. It never looks anywhere else:
// the address comes from the connection that the question came by, and from
// nothing that the question says.
//
// That address is the authority for the look. TCP's handshake shows that the
// one who asks receives what is sent there, the token that it is one of the
// vantage's own users, and what is asked there is what any stranger may ask: the
// four reads of package probe, which change nothing. So a stolen token lets its
// thief have himself looked at, a few times a minute.
package vantage

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/time/rate"

	"gatehouse/internal/finding"
	"gatehouse/internal/probe"
	"gatehouse/internal/scope"
	"gatehouse/internal/target"
)

// Path is where a vantage is asked, by POST.
const Path = "/look"

// Bounds of one question.
const (
	MaxPorts = 8
	maxBody  = 4 << 10
	lookTime = 20 * time.Second
)

// Question is what a vantage is asked. It has no address, on purpose.
type Question struct {
	Ports []uint16 `json:"ports"` // none is Ollama's own
}

// Answer is what a vantage saw.
type Answer struct {
	Address netip.Addr `json:"address"` // that it looked at: the asker's
	Ports   []Seen     `json:"ports"`
}

// Seen is one port as it looks from the vantage.
type Seen struct {
	Port    uint16          `json:"port"`
	Outcome finding.Outcome `json:"outcome"`
	Reason  string          `json:"reason,omitzero"`
	Version string          `json:"version,omitzero"` // of the Ollama there
}

// Server answers questions. Its fields are set once, before the first; the zero
// Server answers nobody.
type Server struct {
	// Token is the SHA-256 of what callers have to show; zero lets nobody ask.
	Token [sha256.Size]byte
	// Dial opens the connections back; nil is a plain dialer.
	Dial      func(context.Context, netip.AddrPort) (net.Conn, error)
	UserAgent string
	// Looked is told of every look; nil is nobody.
	Looked func(Answer)

	mu      sync.Mutex
	callers map[netip.Prefix]*rate.Limiter
	looking int
}

const (
	perMinute  = 12    // looks, for one address
	burst      = 4     // at once
	maxCallers = 10000 // whose rates are known at one time
	maxLooking = 16    // at one time, for everybody
)

// ServeHTTP is one question from its beginning to its end.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	peer, err := netip.ParseAddrPort(r.RemoteAddr) // the connection's; no header is believed
	if err != nil {
		http.Error(w, "no address to look back at", http.StatusBadRequest)
		return
	}
	addr := peer.Addr().Unmap()
	// Guesses of the token count too.
	if !s.mayAsk(addr, time.Now()) {
		w.Header().Set("Retry-After", "30")
		http.Error(w, "too many questions from this address", http.StatusTooManyRequests)
		return
	}
	if !s.knows(r.Header.Get("Authorization")) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="gatehouse vantage"`)
		http.Error(w, "that is not this vantage's token", http.StatusUnauthorized)
		return
	}
	if r.URL.Path != Path || r.Method != http.MethodPost {
		http.Error(w, "POST "+Path, http.StatusNotFound)
		return
	}
	ports, err := readQuestion(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !s.enter() {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many looks under way", http.StatusServiceUnavailable)
		return
	}
	defer s.leave()
	answer := s.look(r.Context(), addr, ports)
	if s.Looked != nil {
		s.Looked(answer)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.MarshalWrite(w, answer) // a caller gone is no matter
}

func (s *Server) knows(authorization string) bool {
	token, ok := strings.CutPrefix(authorization, "Bearer ")
	if !ok || s.Token == [sha256.Size]byte{} {
		return false
	}
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], s.Token[:]) == 1
}

func readQuestion(w http.ResponseWriter, r *http.Request) ([]uint16, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("the question has more than %d bytes, or is not whole", maxBody)
	}
	var q Question
	if err := json.Unmarshal(body, &q, json.RejectUnknownMembers(true)); err != nil {
		return nil, errors.New(`a question is {"ports":[11434]}`)
	}
	if len(q.Ports) == 0 {
		q.Ports = []uint16{11434}
	}
	slices.Sort(q.Ports)
	q.Ports = slices.Compact(q.Ports)
	if len(q.Ports) > MaxPorts {
		return nil, fmt.Errorf("more than %d ports", MaxPorts)
	}
	if q.Ports[0] == 0 {
		return nil, errors.New("0 is no port")
	}
	return q.Ports, nil
}

// look asks each port of addr what it is. The scope is that one address, and
// every dial is held against it.
func (s *Server) look(ctx context.Context, addr netip.Addr, ports []uint16) Answer {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	permit := scope.Machine([]netip.Addr{addr})
	only := permit.Checker()
	dial := s.Dial
	if dial == nil {
		dial = func(ctx context.Context, ap netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", ap.String())
		}
	}
	p := &probe.Prober{
		Allows:    func(a netip.Addr) error { return only.Allows(a, time.Now()) },
		Dial:      dial,
		UserAgent: s.UserAgent,
		Budget:    probe.Budget{Bytes: 4 << 20, Reply: 4 * time.Second, Time: 10 * time.Second},
	}
	answer := Answer{Address: addr, Ports: make([]Seen, len(ports))}
	var wg sync.WaitGroup // of MaxPorts at most
	for i, port := range ports {
		wg.Go(func() {
			host := p.Probe(ctx, target.Place{Addr: addr, Port: port, Target: addr.String()}, nil)
			v := finding.Rules{}.Judge(&host)
			answer.Ports[i] = Seen{Port: port, Outcome: v.Outcome, Reason: v.Reason, Version: v.Identity.Version}
		})
	}
	wg.Wait()
	return answer
}

// mayAsk counts a question from addr. An IPv6 caller has a /64 at least, so
// that is what counts there.
func (s *Server) mayAsk(addr netip.Addr, now time.Time) bool {
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	from, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.callers[from]
	if l == nil {
		if len(s.callers) >= maxCallers {
			for p, l := range s.callers { // those with nothing against them
				if l.TokensAt(now) >= burst {
					delete(s.callers, p)
				}
			}
			if len(s.callers) >= maxCallers {
				return false
			}
		}
		if s.callers == nil {
			s.callers = make(map[netip.Prefix]*rate.Limiter)
		}
		l = rate.NewLimiter(perMinute/60.0, burst)
		s.callers[from] = l
	}
	return l.AllowN(now, 1)
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looking >= maxLooking {
		return false
	}
	s.looking++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looking--
}
