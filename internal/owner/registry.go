package owner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openrdap/rdap"
	"github.com/openrdap/rdap/bootstrap"
	"golang.org/x/time/rate"
)

// Registry asks the registries of addresses by RDAP who holds one and where
// abuse is reported. Its answers are remembered for a day; what an answer says
// of a block is taken to hold for the rest of the block within the same IPv4
// /24 or IPv6 /48, since a registry may know more of an address further away.
type Registry struct {
	http    *http.Client
	agent   string
	servers *bootstrap.Client
	finding sync.Mutex // servers is for one at a time
	limit   *rate.Limiter
	wait    time.Duration
	skipped atomic.Uint64 // hosts whose turn did not come
	memo    memo[netip.Addr, *registration]

	mu     sync.Mutex
	blocks map[netip.Prefix][]*registration
}

// RegistryOptions says how registries are asked.
type RegistryOptions struct {
	HTTP      *http.Client // nil is one with a deadline of 10 seconds
	Bootstrap *url.URL     // where the list of servers is; nil is IANA's
	UserAgent string
	Rate      float64       // questions a second; 0 is 1
	Wait      time.Duration // for a turn to ask at most; 0 is 30s
}

// maxRDAP bounds one answer, in bytes.
const maxRDAP = 1 << 20

// NewRegistry returns a Registry.
func NewRegistry(o RegistryOptions) *Registry {
	if o.HTTP == nil {
		o.HTTP = &http.Client{Timeout: 10 * time.Second}
	}
	if o.Rate <= 0 {
		o.Rate = 1
	}
	if o.Wait <= 0 {
		o.Wait = 30 * time.Second
	}
	client := *o.HTTP
	if client.Transport == nil {
		client.Transport = http.DefaultTransport
	}
	client.Transport = bounded{client.Transport}
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		switch {
		case len(via) > 4:
			return errors.New("more than 4 redirects")
		case r.URL.Scheme != "https" && via[0].URL.Scheme == "https":
			return errors.New("redirected from https to " + r.URL.Scheme)
		}
		return nil
	}
	return &Registry{
		http: &client, agent: o.UserAgent, servers: &bootstrap.Client{HTTP: &client, BaseURL: o.Bootstrap},
		limit: rate.NewLimiter(rate.Limit(o.Rate), 1), wait: o.Wait,
		memo:   memo[netip.Addr, *registration]{most: 1 << 14, keep: 24 * time.Hour},
		blocks: make(map[netip.Prefix][]*registration),
	}
}

// bounded cuts answers off that are too long to be meant.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxRDAP)
	}
	return resp, err
}

// registration is what a registry says of one block of addresses.
type registration struct {
	first, last netip.Addr
	claims      []Claim
	until       time.Time
}

func (r *registration) has(a netip.Addr) bool {
	return r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0 && r.first.BitLen() == a.BitLen()
}

func (r *Registry) claims(ctx context.Context, addr netip.Addr) []Claim {
	if known := r.known(addr); known != nil {
		return known.claims
	}
	answer, _ := r.memo.get(ctx, addr, func() (*registration, bool) {
		waiting, cancel := context.WithTimeout(ctx, r.wait)
		defer cancel()
		if err := r.limit.Wait(waiting); err != nil {
			r.skipped.Add(1)
			return nil, false
		}
		if known := r.known(addr); known != nil { // since somebody before us asked
			return known, true
		}
		answer, err := r.ask(ctx, addr)
		if err != nil {
			return nil, ctx.Err() == nil // not asked again for a day
		}
		r.learn(addr, answer)
		return answer, true
	})
	if answer == nil {
		return nil
	}
	return answer.claims
}

// near is the network in which the answer to one address is taken for another.
func near(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, _ := a.Prefix(bits)
	return p
}

func (r *Registry) known(a netip.Addr) *registration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, b := range r.blocks[near(a)] {
		if b.has(a) && now.Before(b.until) {
			return b
		}
	}
	return nil
}

func (r *Registry) learn(a netip.Addr, b *registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.blocks) >= 1<<14 {
		clear(r.blocks)
	}
	// The block of an address that was asked about goes first: it is the narrower.
	blocks := append([]*registration{b}, r.blocks[near(a)]...)
	r.blocks[near(a)] = blocks[:min(len(blocks), 256)]
}

func (r *Registry) ask(ctx context.Context, addr netip.Addr) (*registration, error) {
	kind := bootstrap.IPv4
	if addr.Is6() {
		kind = bootstrap.IPv6
	}
	q := (&bootstrap.Question{RegistryType: kind, Query: addr.String()}).WithContext(ctx)
	r.finding.Lock()
	where, err := r.servers.Lookup(q)
	r.finding.Unlock()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(where.URLs, func(u *url.URL) bool { return u.Scheme == "https" })
	if i < 0 {
		i = 0 // a registry without https
	}
	if len(where.URLs) == 0 {
		return nil, fmt.Errorf("no RDAP server knows %s", addr)
	}
	server := where.URLs[i].JoinPath("ip", addr.String())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/rdap+json")
	if r.agent != "" {
		req.Header.Set("User-Agent", r.agent)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", server.Host, resp.StatusCode)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	answer, err := parseRDAP(text, "RDAP "+clip(server.Hostname(), maxHost)+" of "+now.UTC().Format(time.DateOnly))
	if err != nil {
		return nil, err
	}
	if !answer.has(addr) {
		return nil, fmt.Errorf("%s speaks of other addresses than %s", server.Host, addr)
	}
	answer.until = now.Add(24 * time.Hour)
	return answer, nil
}

// parseRDAP reads the answer to a question about an address (RFC 9083).
func parseRDAP(text []byte, source string) (*registration, error) {
	object, err := rdap.NewDecoder(text).Decode()
	if err != nil {
		return nil, err
	}
	network, ok := object.(*rdap.IPNetwork)
	if !ok {
		return nil, errors.New("no IP network")
	}
	r := new(registration)
	if r.first, err = netip.ParseAddr(network.StartAddress); err != nil {
		return nil, err
	}
	if r.last, err = netip.ParseAddr(network.EndAddress); err != nil {
		return nil, err
	}
	add := func(what, value string, trust float64) {
		if value != "" && len(r.claims) < 8 {
			r.claims = append(r.claims, Claim{what, value, source, trust})
		}
	}
	add(Netname, clip(network.Name, maxName), registered)
	add(Country, country(network.Country), rdapPlace)
	named, reachable := false, false
	eachEntity(network.Entities, 4, func(e *rdap.Entity) {
		if e.VCard == nil {
			return
		}
		if !named && slices.Contains(e.Roles, "registrant") {
			name := clip(e.VCard.Name(), maxName)
			add(Name, name, registrant)
			named = name != ""
		}
		if !reachable && slices.Contains(e.Roles, "abuse") {
			mail := clip(e.VCard.Email(), maxContact)
			if !strings.Contains(mail, "@") {
				return
			}
			add(Contact, mail, abuseDesk)
			reachable = true
		}
	})
	return r, nil
}

// eachEntity walks the entities and those within them, down to a depth.
func eachEntity(all []rdap.Entity, depth int, do func(*rdap.Entity)) {
	if depth == 0 {
		return
	}
	for i := range all[:min(len(all), 32)] {
		do(&all[i])
		eachEntity(all[i].Entities, depth-1, do)
	}
}
