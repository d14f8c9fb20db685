package target

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"sort"
	"sync"
	"time"

	"go4.org/netipx"

	"gatehouse/internal/scope"
)

// Resolver finds the addresses of a host name. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options is what targets are read with.
type Options struct {
	// Scope refuses what may not be looked at; nil refuses everything.
	Scope *scope.Checker
	Now   func() time.Time // when Scope is asked; nil is time.Now
	// Ports are looked at where a target names none; by default those of the
	// scope, or else 11434.
	Ports    []uint16
	Resolver Resolver // nil is the system's
}

func (o Options) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

func (o Options) ports() []uint16 {
	ports := o.Ports
	if len(ports) == 0 && o.Scope != nil {
		ports = o.Scope.Scope.Ports
	}
	if len(ports) == 0 {
		ports = []uint16{11434}
	}
	ports = slices.Clone(ports)
	slices.Sort(ports)
	return slices.Compact(ports)
}

// List is a file of targets, one or more a line: as a user writes them, with #
// before a comment, or the output of zmap (CSV), masscan (list, or what it says
// on standard output) or nmap (greppable).
type List struct {
	Name string // for errors
	R    io.Reader
}

// Set is places without an order: ranges of addresses times ports, and places
// that were named by host name or URL. Each is in it once. What the scope
// excludes is not in it. It does not change, and its memory depends on how many
// targets were written, not on how many places they are.
type Set struct {
	// Denied is how many places were left out because the scope excludes them
	// or they are never touched.
	Denied uint64
	// Unresolved are the names on lists that have no address now.
	Unresolved []error

	segments []segment
	ports    [][]uint16
	texts    []string // texts[0] is "", for an address that stands for itself
	named    []Place
	bare     uint64 // places of the segments; the named ones follow
}

// segment is a run of places: consecutive addresses, each with all of a list of
// ports.
type segment struct {
	start uint64 // index of the first
	first number
	ports uint32
	text  uint32
}

// maxPlaces bounds a set, so that counting in it never overflows.
const maxPlaces = 1<<63 - 1

// maxMistakes is how many wrong targets one error lists.
const maxMistakes = 20

// Parse reads targets and lists. With neither, the scope's inclusions are the
// target. Every wrong target is in the one error, up to 20 of them: one that
// cannot be read, a name that does not resolve, one that is not permitted
// (wrapping the scope's reason). On lists, which programs write, a name without
// an address is kept in Unresolved, and what is excluded or never touched is
// left out and counted.
func Parse(ctx context.Context, targets []string, lists []List, opt Options) (*Set, error) {
	p := newPlan(opt)
	if len(targets) == 0 && len(lists) == 0 {
		if opt.Scope == nil || len(opt.Scope.Scope.Include) == 0 {
			return nil, errors.New("no target")
		}
		for _, prefix := range opt.Scope.Scope.Include {
			sp := spec{text: prefix.String(), r: netipx.RangeOfPrefix(prefix)}
			if err := p.add(sp, nil, true); err != nil {
				return nil, err
			}
		}
	}
	var names []nameSpec
	add := func(sp spec, at origin) {
		if sp.name != "" {
			names = append(names, nameSpec{sp, at})
		} else if err := p.add(sp, nil, at.list != nil); err != nil {
			p.mistake(at, err)
		}
	}
	for _, t := range targets {
		sp, err := parseSpec(t)
		if err != nil {
			p.mistake(origin{}, err)
			continue
		}
		add(sp, origin{})
	}
	for _, list := range lists {
		if err := p.read(ctx, list, add); err != nil {
			return nil, fmt.Errorf("read %s: %w", list.Name, err)
		}
	}
	if len(p.mistakes) > 0 { // before the first question to a name server
		return nil, p.err()
	}
	unresolved := p.addNames(ctx, names)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if len(p.mistakes) > 0 {
		return nil, p.err()
	}
	set, err := p.set()
	if err != nil {
		return nil, err
	}
	set.Unresolved = unresolved
	return set, nil
}

// origin is the line of a list that a target stands on; zero for one that
// stands on none.
type origin struct {
	list *List
	line int
}

func (o origin) wrap(err error) error {
	if o.list == nil {
		return err
	}
	return fmt.Errorf("%s line %d: %w", o.list.Name, o.line, err)
}

// nameSpec is a target with a name.
type nameSpec struct {
	spec
	at origin
}

// plan gathers targets for a set.
type plan struct {
	opt      Options
	ports    []uint16
	anyPort  []span            // looked at on the default ports
	byPort   map[uint16][]span // looked at on a port of their own
	named    []Place
	texts    []string
	denied   uint64
	mistakes []error
	more     int // mistakes beyond those that are listed
}

func newPlan(opt Options) *plan {
	return &plan{opt: opt, ports: opt.ports(), texts: []string{""}}
}

func (p *plan) mistake(at origin, err error) {
	if len(p.mistakes) >= maxMistakes {
		p.more++
		return
	}
	p.mistakes = append(p.mistakes, at.wrap(err))
}

func (p *plan) err() error {
	err := errors.Join(p.mistakes...)
	if p.more > 0 {
		return fmt.Errorf("%w\nand %d more", err, p.more)
	}
	return err
}

func (p *plan) read(ctx context.Context, list List, add func(sp spec, at origin)) error {
	var f format
	lines := newLineReader(list.R)
	for {
		line, err := lines.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, errLongLine):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		at := origin{&list, lines.n}
		var specs []spec
		if err == nil {
			specs, err = f.parse(line)
		}
		if err != nil {
			p.mistake(at, err)
			continue
		}
		for _, sp := range specs {
			add(sp, at)
		}
	}
}

// add puts a target into the plan when the scope permits it; addrs are those of
// its name. What is excluded is passed over when it comes from a list.
func (p *plan) add(sp spec, addrs []netip.Addr, listed bool) error {
	if !sp.named() {
		several := sp.r.From() != sp.r.To()
		if err := p.opt.Scope.CheckRange(sp.r, p.opt.now()); err != nil && !(listed && passed(err)) {
			if several {
				err = fmt.Errorf("%s: %w", sp.text, err)
			}
			return err
		}
		text := uint32(0)
		if several {
			text = uint32(len(p.texts))
			p.texts = append(p.texts, sp.text)
		}
		if sp.port == 0 {
			p.anyPort = appendSpans(p.anyPort, sp.r, text)
			return nil
		}
		if p.byPort == nil {
			p.byPort = map[uint16][]span{}
		}
		p.byPort[sp.port] = appendSpans(p.byPort[sp.port], sp.r, text)
		return nil
	}
	if sp.name == "" {
		addrs = []netip.Addr{sp.r.From()}
	}
	ports := p.ports
	if sp.port != 0 {
		ports = []uint16{sp.port}
	}
	for _, a := range addrs {
		if err := p.opt.Scope.Allows(a, p.opt.now()); err != nil {
			if listed && passed(err) {
				p.denied += uint64(len(ports))
				continue
			}
			return fmt.Errorf("%q: %w", sp.text, err)
		}
		for _, port := range ports {
			p.named = append(p.named, Place{
				Addr: a, Port: port, Name: sp.name, Scheme: sp.scheme, Path: sp.path, Target: sp.text,
			})
		}
	}
	return nil
}

// passed reports whether what err refuses is passed over on a list.
func passed(err error) bool {
	return errors.Is(err, scope.ErrExcluded) || errors.Is(err, scope.ErrSpecial)
}

// lookups is how many names are resolved at the same time, and lookupTimeout
// how long one may take.
const (
	lookups       = 16
	lookupTimeout = 10 * time.Second
)

// addNames resolves names and adds them in the order in which they were
// written. It returns the ones on lists that have no address.
func (p *plan) addNames(ctx context.Context, names []nameSpec) (unresolved []error) {
	type answer struct {
		addrs []netip.Addr
		err   error
	}
	answers := make([]answer, len(names))
	var wg sync.WaitGroup
	for w := range min(lookups, len(names)) {
		wg.Go(func() {
			for i := w; i < len(names); i += lookups {
				answers[i].addrs, answers[i].err = p.opt.lookup(ctx, names[i].name)
			}
		})
	}
	wg.Wait()
	for i, n := range names {
		err := answers[i].err
		if err != nil && n.at.list != nil {
			unresolved = append(unresolved, n.at.wrap(err))
			continue
		}
		if err == nil {
			err = p.add(n.spec, answers[i].addrs, n.at.list != nil)
		}
		if err != nil {
			p.mistake(n.at, err)
		}
	}
	return unresolved
}

// lookup returns all addresses of name, sorted: an order that a resumed scan
// finds again.
func (o Options) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	resolver := o.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := resolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	addrs := make([]netip.Addr, len(found))
	for i, a := range found {
		addrs[i] = a.Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	if addrs = slices.Compact(addrs); len(addrs) == 0 {
		return nil, fmt.Errorf("look up %s: no address", name)
	}
	return addrs, nil
}

// set makes everything disjoint and counts it.
func (p *plan) set() (*Set, error) {
	s := &Set{Denied: p.denied, texts: p.texts, named: distinct(p.named)}

	// An address and port that a named place looks at anyway, without a path,
	// is not looked at once more. If it is one of the default ports, the
	// address goes over to those that have their ports one by one.
	taken := map[uint16][]span{}
	var moved []span
	for _, n := range s.named {
		if n.Path != "" {
			continue
		}
		at := numberOf(n.Addr)
		taken[n.Port] = append(taken[n.Port], span{at, at, 0})
		if slices.Contains(p.ports, n.Port) {
			moved = append(moved, span{at, at, 0})
		}
	}
	anyPort, alone := split(merge(p.anyPort), merge(moved))
	byPort := p.byPort
	if len(alone) > 0 {
		if byPort == nil {
			byPort = map[uint16][]span{}
		}
		for _, port := range p.ports {
			byPort[port] = append(byPort[port], alone...)
		}
	}

	if err := p.append(s, anyPort, p.ports); err != nil {
		return nil, err
	}
	own := make([]uint16, 0, len(byPort))
	for port := range byPort {
		own = append(own, port)
	}
	slices.Sort(own)
	for _, port := range own {
		spans, _ := split(merge(byPort[port]), merge(taken[port]))
		if slices.Contains(p.ports, port) {
			spans, _ = split(spans, anyPort)
		}
		if err := p.append(s, spans, []uint16{port}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// distinct drops named places that are there twice. One without a scheme is the
// same as one that has one.
func distinct(places []Place) []Place {
	type key struct {
		addr       netip.AddrPort
		name, path string
		scheme     string
	}
	keyOf := func(p Place, scheme string) key { return key{p.AddrPort(), p.Name, p.Path, scheme} }
	seen := map[key]bool{}
	for _, p := range places {
		if p.Scheme != "" {
			seen[keyOf(p, "any")] = true
		}
	}
	var kept []Place
	for _, p := range places {
		k := keyOf(p, p.Scheme)
		if seen[k] || p.Scheme == "" && seen[keyOf(p, "any")] {
			continue
		}
		seen[k] = true
		kept = append(kept, p)
	}
	return kept
}

// append puts what the scope allows of spans into s, with all of ports.
func (p *plan) append(s *Set, spans []span, ports []uint16) error {
	s.ports = append(s.ports, ports)
	for _, whole := range spans {
		left, ok := whole.size()
		if !ok {
			left = math.MaxUint64
		}
		for _, part := range p.opt.Scope.Cut(whole.ipRange()) {
			sp := spanOf(part, whole.text)
			n, ok := sp.size()
			hi, places := bits.Mul64(n, uint64(len(ports)))
			if !ok || hi != 0 || places > maxPlaces-s.bare-uint64(len(s.named)) {
				return fmt.Errorf("%s is too large: a /64 cannot be walked", cmp.Or(s.texts[whole.text], part.String()))
			}
			s.segments = append(s.segments, segment{s.bare, sp.first, uint32(len(s.ports) - 1), whole.text})
			s.bare += places
			left -= n
		}
		if hi, denied := bits.Mul64(left, uint64(len(ports))); hi != 0 || s.Denied+denied < denied {
			s.Denied = math.MaxUint64
		} else {
			s.Denied += denied
		}
	}
	return nil
}

// Count is how many places there are; below 2^63.
func (s *Set) Count() uint64 { return s.bare + uint64(len(s.named)) }

// at is the place with index i < Count, in the order of the addresses.
func (s *Set) at(i uint64) Place {
	if i >= s.bare {
		return s.named[i-s.bare]
	}
	g, addr, port := s.bareAt(i)
	p := Place{Addr: addr, Port: port, Target: s.texts[g.text]}
	switch {
	case p.Target != "":
	case g.ports == 0: // those of the default ports come first
		p.Target = p.Addr.String()
	default:
		p.Target = p.AddrPort().String()
	}
	return p
}

// bareAt is where index i < bare lies.
func (s *Set) bareAt(i uint64) (*segment, netip.Addr, uint16) {
	n, found := slices.BinarySearchFunc(s.segments, i, func(g segment, i uint64) int { return cmp.Compare(g.start, i) })
	if !found {
		n--
	}
	g := &s.segments[n]
	ports := s.ports[g.ports]
	step, port := i-g.start, uint64(0)
	if k := uint64(len(ports)); k > 1 {
		step, port = step/k, step%k
	}
	return g, g.first.plus(step).addr(), ports[port]
}

// find is the index of the place that stands for addr alone; false when the set
// has none.
func (s *Set) find(addr netip.AddrPort) (uint64, bool) {
	at := numberOf(addr.Addr())
	// The segments of one list of ports follow each other and grow.
	for from := 0; from < len(s.segments); {
		list := s.segments[from].ports
		to := from + sort.Search(len(s.segments)-from, func(i int) bool { return s.segments[from+i].ports != list })
		n := from + sort.Search(to-from, func(i int) bool { return at.less(s.segments[from+i].first) }) - 1
		ports := s.ports[list]
		if port := slices.Index(ports, addr.Port()); port >= 0 && n >= from {
			end := s.bare
			if n+1 < len(s.segments) {
				end = s.segments[n+1].start
			}
			g := &s.segments[n]
			far := at.minus(g.first)
			if i := g.start + far.lo*uint64(len(ports)) + uint64(port); far.hi == 0 && far.lo < (end-g.start)/uint64(len(ports)) {
				return i, true
			}
		}
		from = to
	}
	return 0, false
}

// Digest names the set: two with the same digest, walked in the same order,
// have the same place at every position.
func (s *Set) Digest() string {
	h := sha256.New()
	for _, g := range s.segments {
		fmt.Fprintln(h, g.start, g.first, s.ports[g.ports])
	}
	fmt.Fprintln(h, s.bare)
	for _, n := range s.named {
		fmt.Fprintf(h, "%s %q %q %q\n", n.AddrPort(), n.Name, n.Scheme, n.Path)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Walk is a Set in an order.
type Walk struct {
	set   *Set
	order Order
	end   uint64 // one past the last position
	perm  *permutation
}

// Walk puts the set in an order. It takes the same time and memory for any
// number of places.
func (s *Set) Walk(o Order) (*Walk, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	n := s.Count()
	w := &Walk{s, o, o.Sample.of(n), newPermutation(n, o.Seed)}
	w.order.From = min(o.From, w.end)
	return w, nil
}

// Count is how many places Places yields.
func (w *Walk) Count() uint64 {
	return w.upTo(w.end) - w.upTo(w.order.From)
}

// upTo is how many positions of the shard are below pos.
func (w *Walk) upTo(pos uint64) uint64 {
	if w.order.Shard.N <= 1 {
		return pos
	}
	return (pos + w.order.Shard.N - w.order.Shard.I) / w.order.Shard.N
}

// At is the place at position pos of the whole order, which must be below the
// set's Count.
func (w *Walk) At(pos uint64) Place {
	p := w.set.at(w.perm.at(pos))
	p.Pos = pos
	return p
}

// End is one past the last position that Places may yield.
func (w *Walk) End() uint64 { return w.end }

// Nth is position and place of the k-th of the Count places that Places yields,
// from 0, without what is only for show. It is not bare when it was named by a
// host name or a URL, so that its address does not say all of it.
func (w *Walk) Nth(k uint64) (pos uint64, place netip.AddrPort, bare bool) {
	pos = w.nth(k)
	i := w.perm.at(pos)
	if i >= w.set.bare {
		return pos, w.set.named[i-w.set.bare].AddrPort(), false
	}
	_, addr, port := w.set.bareAt(i)
	return pos, netip.AddrPortFrom(addr, port), true
}

// nth is the position of the k-th place.
func (w *Walk) nth(k uint64) uint64 {
	if s := w.order.Shard; s.N > 1 {
		return k*s.N + s.I - 1 + w.skipped()
	}
	return k + w.order.From
}

// skipped are the positions of the shard before From, as far as its first.
func (w *Walk) skipped() uint64 { return w.upTo(w.order.From) * w.order.Shard.N }

// Find is which of the places, as Nth counts them, stands for addr alone; false
// when none does. It takes the same time for any number of places, and no table:
// the permutation is walked backwards.
func (w *Walk) Find(addr netip.AddrPort) (k uint64, ok bool) {
	i, ok := w.set.find(addr)
	if !ok {
		return 0, false
	}
	pos := w.perm.of(i)
	if pos < w.order.From || pos >= w.end || !w.order.Shard.holds(pos) {
		return 0, false
	}
	return w.upTo(pos) - w.upTo(w.order.From), true
}

// Rank is how many of the places, as Nth counts them, lie below position pos.
func (w *Walk) Rank(pos uint64) uint64 {
	return w.upTo(max(pos, w.order.From)) - w.upTo(w.order.From)
}

// Places yields the places in order, until ctx ends.
func (w *Walk) Places(ctx context.Context) iter.Seq[Place] {
	return func(yield func(Place) bool) {
		step, pos := uint64(1), w.order.From
		if s := w.order.Shard; s.N > 1 {
			step = s.N
			pos += (s.I - 1 + s.N - pos%s.N) % s.N
		}
		for ; pos < w.end && ctx.Err() == nil; pos += step {
			if !yield(w.At(pos)) {
				return
			}
		}
	}
}
