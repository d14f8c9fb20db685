package sweep

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"go4.org/netipx"

	"gatehouse/internal/scope"
	"gatehouse/internal/target"
)

// fakeWire takes frames at the virtual time, or is short of buffers.
type fakeWire struct {
	frames *frames
	says   func(addr netip.AddrPort, n int) bool // whether a place answers its n-th SYN
	short  func() bool
	lost   uint64 // since dropped was asked
	closed chan struct{}

	mu    sync.Mutex
	at    []time.Time
	to    []netip.AddrPort
	times map[netip.AddrPort]int
	come  chan []byte
}

func (w *fakeWire) send(list [][]byte) (int, error) {
	if w.short != nil && w.short() {
		return 0, fmt.Errorf("send: %w", errShort)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range list {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte(f[30:34])), binary.BigEndian.Uint16(f[36:]))
		w.at, w.to = append(w.at, time.Now()), append(w.to, to)
		w.times[to]++
		if w.says != nil && w.says(to, w.times[to]) {
			w.come <- answerTo(w.frames, to)
		}
	}
	return len(list), nil
}

// answerTo is the SYN-ACK of a place.
func answerTo(f *frames, to netip.AddrPort) []byte {
	seq, n := f.cookie(to)
	b := make([]byte, ipv4Len+20)
	b[0], b[9] = 0x45, protoTCP
	copy(b[12:], to.Addr().AsSlice())
	tcp := b[ipv4Len:]
	port := f.of(n)
	copy(tcp, []byte{byte(to.Port() >> 8), byte(to.Port()), byte(port >> 8), byte(port)})
	seq++
	copy(tcp[8:], []byte{byte(seq >> 24), byte(seq >> 16), byte(seq >> 8), byte(seq)})
	tcp[13] = flagSYN | flagACK
	return b
}

func (w *fakeWire) receive(got func([]byte)) error {
	for {
		select {
		case b := <-w.come:
			got(b)
		case <-w.closed:
			return nil
		}
	}
}

func (w *fakeWire) dropped() uint64 {
	n := w.lost
	w.lost = 0
	return n
}

func (w *fakeWire) close() error {
	close(w.closed)
	return nil
}

func (w *fakeWire) into(s *SYN) {
	s.Allows = func(netip.Addr) error { return nil }
	s.Links = []*Link{{Source: netip.MustParseAddr("10.99.0.1"), Elsewhere: new(netipx.IPSet)}}
	w.times, w.closed, w.come = map[netip.AddrPort]int{}, make(chan struct{}), make(chan []byte, 1<<16)
	s.open = func(_ *Link, f *frames) (wire, error) {
		w.frames = f
		return w, nil
	}
}

func walkOf(t testing.TB, targets ...string) *target.Walk {
	t.Helper()
	sc := scope.Scope{Name: "local", Local: true}
	set, err := target.Parse(t.Context(), targets, nil, target.Options{Scope: sc.Checker()})
	if err != nil {
		t.Fatal(err)
	}
	w, err := set.Walk(target.Order{Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

var nothing = Events{
	Answer: func(uint64, uint64, State, uint64) {},
	Room:   func(context.Context) error { return nil },
	Done:   func(Batch) error { return nil },
}

// TestSYNRate holds the rate to 1 % from 10 packets a second to more than any
// wire takes, and no second to more than its share and the burst.
func TestSYNRate(t *testing.T) {
	for _, c := range []struct {
		rate    float64
		network string
	}{
		{10, "10.0.0.0/24"},
		{33, "10.0.0.0/23"},
		{1000, "10.0.0.0/19"},
		{65_432, "10.0.0.0/16"},
		{700_000, "10.0.0.0/15"},
		{1_488_095, "10.0.0.0/15"},
		{14_880_952, "10.0.0.0/14"},
	} {
		t.Run(fmt.Sprint(c.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var w fakeWire
				s := SYN{Limit: NewLimit(c.rate, 0)}
				w.into(&s)
				walk := walkOf(t, c.network)
				if ended, err := s.Run(t.Context(), nil, walk, 0, nothing); !ended || err != nil {
					t.Fatal(ended, err)
				}
				n := len(w.at)
				if n != int(walk.Count()) {
					t.Fatalf("%d packets, want %d", n, walk.Count())
				}
				took := w.at[n-1].Sub(w.at[0]) + burst
				if rate := float64(n) / took.Seconds(); math.Abs(rate/c.rate-1) > 0.01 {
					t.Errorf("%d packets at %.2f a second, want %v", n, rate, c.rate)
				}
				most := int(c.rate*(1+burst.Seconds())) + 1
				for i := range w.at {
					if j := i + most; j < n && w.at[j].Sub(w.at[i]) < time.Second {
						t.Fatalf("%d packets within %v", most+1, w.at[j].Sub(w.at[i]))
					}
				}
			})
		})
	}
}

// TestSYNNetworkRate has a crowded network not hold up the others, and get no
// more than its own rate, SYNs that are sent again counted.
func TestSYNNetworkRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w fakeWire
		s := SYN{Limit: NewLimit(1000, 20), Probes: 2, Cooldown: time.Second}
		w.into(&s)
		start := time.Now()
		walk := walkOf(t, "10.0.0.0/24", "10.0.1.0/29", "10.0.2.0/29")
		if ended, err := s.Run(t.Context(), nil, walk, 0, nothing); !ended || err != nil {
			t.Fatal(ended, err)
		}
		crowd, others := netip.MustParsePrefix("10.0.0.0/24"), 0
		var at []time.Time
		asked := map[netip.AddrPort]bool{}
		for i, to := range w.to {
			if crowd.Contains(to.Addr()) {
				at = append(at, w.at[i])
			} else if others++; !asked[to] && w.at[i].Sub(start) > time.Second {
				t.Errorf("%v had to wait %v", to, w.at[i].Sub(start))
			}
			asked[to] = true
		}
		if len(at) != 512 || others != 32 {
			t.Fatalf("%d and %d SYNs", len(at), others)
		}
		for i := range at {
			if j := i + 21; j < len(at) && at[j].Sub(at[i]) < time.Second {
				t.Fatalf("22 SYNs to one network within %v", at[j].Sub(at[i]))
			}
		}
		if took := at[511].Sub(at[0]); took > 27*time.Second {
			t.Errorf("512 SYNs at 20 a second took %v", took)
		}
	})
}

// TestSlowDown has a machine that is short of buffers, or that drops answers,
// send less, lose nothing of what it was to send, and speed up again.
func TestSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w fakeWire
		s := SYN{Limit: NewLimit(100_000, 0), Cooldown: time.Second}
		w.into(&s)
		start := time.Now()
		w.short = func() bool {
			e := time.Since(start)
			return e > 300*time.Millisecond && e < 330*time.Millisecond
		}
		if ended, err := s.Run(t.Context(), nil, walkOf(t, "10.0.0.0/14"), 0, nothing); !ended || err != nil {
			t.Fatal(ended, err)
		}
		in := func(from, to time.Duration) (n int) {
			for _, at := range w.at {
				if e := at.Sub(start); e >= from && e < to {
					n++
				}
			}
			return n
		}
		before, during, after := in(0, 300*time.Millisecond), in(340*time.Millisecond, 440*time.Millisecond), in(2*time.Second, 2100*time.Millisecond)
		if len(w.at) != 1<<18 || s.Stats().Short == 0 || during > 7500 || before < 29_000 || after < 9500 {
			t.Errorf("%d packets, %d before, %d during, %d after; %+v", len(w.at), before, during, after, s.Stats())
		}
	})
}

// TestBackPressure has a sweep wait for whoever takes the answers, and lose none.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fakeWire{says: func(netip.AddrPort, int) bool { return true }}
		s := SYN{Limit: NewLimit(10_000, 0), Cooldown: time.Second}
		w.into(&s)
		var mu sync.Mutex
		waiting, most, taken := 0, 0, 0
		e := nothing
		e.Answer = func(uint64, uint64, State, uint64) {
			mu.Lock()
			defer mu.Unlock()
			waiting++
			most = max(most, waiting)
		}
		e.Room = func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if waiting > 100 {
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				taken, waiting = taken+waiting, 0
			}
			return nil
		}
		if ended, err := s.Run(t.Context(), nil, walkOf(t, "10.0.0.0/20"), 0, e); !ended || err != nil {
			t.Fatal(ended, err)
		}
		if taken+waiting != 4096 || most > 100+2*chunk {
			t.Errorf("%d answers, at most %d waited", taken+waiting, most)
		}
	})
}

// TestAgain has silent places asked again after a second each time, and those
// that answered left alone.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fakeWire{says: func(a netip.AddrPort, n int) bool { return int(a.Addr().As4()[3]%4) == n }}
		s := SYN{Probes: 3, Cooldown: 2 * time.Second}
		w.into(&s)
		start := time.Now()
		silent := uint64(0)
		e := nothing
		e.Done = func(b Batch) error {
			b.Unheard(func(uint64) bool { silent++; return true })
			return nil
		}
		if ended, err := s.Run(t.Context(), nil, walkOf(t, "10.0.0.0/24"), 0, e); !ended || err != nil {
			t.Fatal(ended, err)
		}
		for a, n := range w.times {
			if want := int(a.Addr().As4()[3] % 4); n != want && (want > 0 || n != 3) {
				t.Errorf("%v was asked %d times", a, n)
			}
		}
		st := s.Stats()
		if took := time.Since(start); took < 4*time.Second || took > 4500*time.Millisecond || silent != 64 || st.Open != 192 || st.Again != 64+64*2+64*2 {
			t.Errorf("took %v, %d silent, %+v", took, silent, st)
		}
	})
}

// TestStopAndGoOn stops a sweep in the middle: what was told of in batches and
// what is asked from there on are all places.
func TestStopAndGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		walk := walkOf(t, "10.0.0.0/20")
		var from, places uint64
		for runs := 0; ; runs++ {
			w := fakeWire{}
			s := SYN{Limit: NewLimit(500, 0), Probes: 2, Cooldown: time.Second}
			w.into(&s)
			e := nothing
			e.Done = func(b Batch) error {
				from, places = b.End, places+b.Places
				return nil
			}
			stop := make(chan struct{})
			time.AfterFunc(5*time.Second, func() { close(stop) })
			start := time.Now()
			ended, err := s.Run(t.Context(), stop, walk, from, e)
			if err != nil {
				t.Fatal(err)
			}
			if ended {
				if places != 4096 || from != walk.End() || runs < 2 {
					t.Errorf("%d places up to %d in %d runs", places, from, runs+1)
				}
				return
			}
			if took := time.Since(start); took < 5*time.Second || took > 5*time.Second+burst {
				t.Errorf("stopped after %v", took)
			}
		}
	})
}

var errBroken = errors.New("broken")

// TestErrors has a sweep end with what goes wrong, and wait for nothing.
func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s SYN
		if _, err := s.Run(t.Context(), nil, walkOf(t, "10.0.0.0/24"), 0, nothing); !errors.Is(err, scope.ErrNoScope) {
			t.Errorf("without a scope: %v", err)
		}
		var w fakeWire
		w.into(&s)
		e := nothing
		e.Done = func(Batch) error { return errBroken }
		if ended, err := s.Run(t.Context(), nil, walkOf(t, "10.0.0.0/24"), 0, e); !errors.Is(err, errBroken) || ended {
			t.Errorf("%v %v", ended, err)
		}
		w.into(&s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if ended, err := s.Run(ctx, nil, walkOf(t, "10.0.0.0/24"), 0, nothing); err != nil || ended {
			t.Errorf("%v %v", ended, err)
		}
	})
}

// TestFloodTakesNoMemory has no answer, forged or given again, take memory,
// however many come.
func TestFloodTakesNoMemory(t *testing.T) {
	f := newFrames(newKey(), ports{61000, 65535}, netip.MustParseAddr("10.99.0.1"), [6]byte{}, [6]byte{})
	r := &run{SYN: &SYN{}, walk: walkOf(t, "10.0.0.0/24"), events: nothing}
	b := r.current(time.Now())
	b.end, r.next = 256, 256
	answer := answerTo(f, netip.MustParseAddrPort("10.0.0.9:11434"))
	forged := bytes.Clone(answer)
	forged[ipv4Len+9]++
	elsewhere := answerTo(f, netip.MustParseAddrPort("10.0.1.9:11434"))
	for name, packet := range map[string][]byte{"forged": forged, "again": answer, "elsewhere": elsewhere, "cut off": answer[:30]} {
		if n := testing.AllocsPerRun(1000, func() { r.receive(f, packet) }); n != 0 {
			t.Errorf("%s: %v allocations a packet", name, n)
		}
	}
	if st := r.Stats(); st.Open != 1 || st.Duplicates != 1000 || st.Invalid != 2*1001 || st.Late != 1001 || len(r.batches) != 1 {
		t.Errorf("%+v", st)
	}
}

// TestDryRun reads with another's hand what was not sent.
func TestDryRun(t *testing.T) {
	var w fakeWire
	var s SYN
	w.into(&s)
	no := netip.MustParsePrefix("10.0.0.128/26")
	s.Links[0].NextHop, s.Links[0].MAC = [6]byte{2, 1}, [6]byte{2, 2}
	s.Allows = func(a netip.Addr) error {
		if no.Contains(a) {
			return scope.ErrExcluded
		}
		return nil
	}
	var out bytes.Buffer
	n, err := s.DryRun(t.Context(), &out, walkOf(t, "10.0.0.0/24", "http://10.0.1.1/"), 1000)
	if n != 192 || err != nil {
		t.Fatalf("%d packets, %v", n, err)
	}
	r, err := pcapgo.NewReader(&out)
	if err != nil || r.LinkType() != layers.LinkTypeEthernet {
		t.Fatal(r, err)
	}
	seen := map[string]bool{}
	var first time.Time
	for i := 0; ; i++ {
		data, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = info.Timestamp
		}
		if at := info.Timestamp.Sub(first); at != time.Duration(i)*time.Millisecond {
			t.Errorf("packet %d at %v", i, at)
		}
		p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default)
		tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || !tcp.SYN || tcp.ACK || tcp.DstPort != 11434 || p.ErrorLayer() != nil {
			t.Fatal(p)
		}
		seen[p.NetworkLayer().NetworkFlow().Dst().String()] = true
	}
	if len(seen) != 192 {
		t.Errorf("%d addresses", len(seen))
	}
}

// FuzzRead has any packet read without harm, and none believed that does not carry
// the cookie of the place it tells of.
func FuzzRead(f *testing.F) {
	frames4 := newFrames(key{1, 2}, ports{61000, 65535}, netip.MustParseAddr("10.99.0.1"), [6]byte{}, [6]byte{})
	frames6 := newFrames(key{1, 2}, ports{61000, 65535}, netip.MustParseAddr("fd99::1"), [6]byte{}, [6]byte{})
	b := make([]byte, maxFrame)
	for _, fr := range []*frames{frames4, frames6} {
		to := netip.MustParseAddrPort("10.1.2.3:11434")
		if fr == frames6 {
			to = netip.MustParseAddrPort("[fd01::1]:11434")
		}
		n := fr.write(b, to)
		f.Add(bytes.Clone(b[ethernetLen:n]))
		if fr == frames4 {
			f.Add(answerTo(fr, to))
			f.Add(append([]byte{0x45, 0, 0, 56, 0, 0, 0, 0, 60, protoICMP, 0, 0, 10, 7, 7, 7, 10, 99, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0}, b[ethernetLen:n]...))
		} else {
			router := append([]byte{0x60, 0, 0, 0, 0, 72, protoICMPv6, 60}, make([]byte, 32)...)
			f.Add(append(append(router, 1, 3, 0, 0, 0, 0, 0, 0), b[ethernetLen:n]...))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, fr := range []*frames{frames4, frames6} {
			r, ok := fr.read(b)
			if !ok {
				continue
			}
			if !r.from.IsValid() || r.state < Open || r.state > Unreachable {
				t.Fatalf("%+v", r)
			}
			seq, n := fr.cookie(r.from)
			if !r.icmp {
				seq++
			}
			at := binary.BigEndian.AppendUint32(nil, seq)
			if !bytes.Contains(b, at) || !bytes.Contains(b, binary.BigEndian.AppendUint16(nil, fr.of(n))) {
				t.Fatalf("believed without the cookie: %+v of %x", r, b)
			}
		}
	})
}
