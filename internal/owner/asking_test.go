package owner_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/internal/owner"
)

// zone is a resolver with names of its own, that takes a second to answer.
type zone struct {
	names map[string][]string
	back  map[string]string
	takes time.Duration

	asked         atomic.Int32
	atOnce, peaks atomic.Int32
}

func (z *zone) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	z.asked.Add(1)
	if n := z.atOnce.Add(1); n > z.peaks.Load() {
		z.peaks.Store(n)
	}
	defer z.atOnce.Add(-1)
	select {
	case <-time.After(z.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if names := z.names[addr]; names != nil {
		return names, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: addr, IsNotFound: true}
}

func (z *zone) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a := z.back[host]; a != "" {
		return []netip.Addr{netip.MustParseAddr(a)}, nil
	}
	return nil, errors.New("no such host")
}

func TestReverseNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{
			takes: time.Second,
			names: map[string][]string{
				"10.0.0.1": {"GPU.lab.example.", "other.example."},
				"10.0.0.2": {"\x1b[2J.evil.example.", strings.Repeat("a", 400) + ".example.", "a b.example."},
			},
			back: map[string]string{"gpu.lab.example": "10.0.0.1", "other.example": "10.0.0.9"},
		}
		f := &owner.Finder{Names: owner.NewNames(z, 2)}
		ask := func(addr string) (got []string) {
			for _, c := range f.Of(t.Context(), host(addr)).Claims {
				got = append(got, fmt.Sprint(c.What, " ", c.Value, " ", c.Confidence))
			}
			return got
		}
		want := []string{"hostname gpu.lab.example 0.6", "hostname other.example 0.3"}
		if got := ask("10.0.0.1"); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if got := ask("10.0.0.2"); got != nil {
			t.Errorf("rude names: %q", got)
		}
		// An answer is remembered, that there is none too; loopback is not asked about.
		ask("10.0.0.1")
		ask("10.0.0.3")
		ask("10.0.0.3")
		ask("127.0.0.1")
		if n := z.asked.Load(); n != 3 {
			t.Errorf("asked %d times, want 3", n)
		}
		time.Sleep(time.Hour) // in the bubble, where that takes no time
		if ask("10.0.0.1"); z.asked.Load() != 4 {
			t.Errorf("asked %d times after an hour, want 4", z.asked.Load())
		}

		// Many at once: each is asked about once, two at a time.
		z.asked.Store(0)
		start := time.Now()
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() { ask(fmt.Sprintf("10.0.1.%d", i%10)) })
		}
		all.Wait()
		if n, peak, took := z.asked.Load(), z.peaks.Load(), time.Since(start); n != 10 || peak != 2 || took != 5*time.Second {
			t.Errorf("asked %d times, %d at once, in %v; want 10, 2, 5s", n, peak, took)
		}

		// A resolver that does not answer is waited for two seconds, once.
		z.takes, start = time.Hour, time.Now()
		ask("10.0.2.1")
		ask("10.0.2.1")
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("waited %v, want 2s", took)
		}
		// Who gives up leaves nothing behind.
		gone, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f.Of(gone, host("10.0.2.2"))
		z.takes, z.names["10.0.2.2"] = time.Second, []string{"late.example."}
		if got := ask("10.0.2.2"); len(got) != 1 {
			t.Errorf("%q after somebody gave up", got)
		}
	})
}

const network = `{"objectClassName":"ip network","startAddress":"78.46.0.0","endAddress":"78.46.0.127","ipVersion":"v4","name":"ACME-NET","country":"DE",
"entities":[{"objectClassName":"entity","handle":"A","roles":["registrant"],"vcardArray":["vcard",[["version",{},"text","4.0"],["fn",{},"text","Acme GmbH\u001b[2J"]]],
"entities":[{"objectClassName":"entity","roles":["technical"],"vcardArray":["vcard",[["email",{},"text","noc@acme.example"]]]},
{"objectClassName":"entity","roles":["abuse"],"vcardArray":["vcard",[["fn",{},"text","Abuse"],["email",{},"text","abuse@acme.example"]]]}]}]}`

// registry is a bootstrap service and an RDAP server, on loopback.
func registry(t *testing.T, answer http.HandlerFunc) (bootstrap *url.URL) {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	for _, file := range []struct{ name, all string }{{"ipv4.json", "0.0.0.0/0"}, {"ipv6.json", "::/0"}} {
		mux.HandleFunc("/bootstrap/"+file.name, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"version":"1.0","publication":"2026-01-01T00:00:00Z","description":"x","services":[[[%q],[%q]]]}`, file.all, server.URL+"/rdap/")
		})
	}
	mux.HandleFunc("/rdap/ip/", answer)
	u, err := url.Parse(server.URL + "/bootstrap/")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestRegistry(t *testing.T) {
	var asked []string
	var mu sync.Mutex
	where := registry(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Path+" "+r.UserAgent())
		w.Header().Set("Content-Type", "application/rdap+json")
		io.WriteString(w, network)
	})
	f := &owner.Finder{Registry: owner.NewRegistry(owner.RegistryOptions{Bootstrap: where, UserAgent: "Gatehouse/test", Rate: 1000})}
	o := f.Of(t.Context(), host("78.46.0.1"))
	if o.Country != "DE" || !o.EU || o.Name != "Acme GmbH[2J" || o.Contact != "abuse@acme.example" {
		t.Errorf("%+v", o)
	}
	for _, c := range o.Claims {
		if c.What != owner.Membership && !strings.HasPrefix(c.Source, "RDAP 127.0.0.1 of 20") {
			t.Errorf("%+v does not say where it is from", c)
		}
	}
	f.Of(t.Context(), host("78.46.0.1"))
	f.Of(t.Context(), host("78.46.0.100")) // of the same block
	if other := f.Of(t.Context(), host("78.46.0.200")); len(other.Claims) > 0 {
		t.Errorf("%+v, of another block", other) // the answer does not cover it
	}
	f.Of(t.Context(), host("10.0.0.1")) // nobody's
	want := []string{"/rdap/ip/78.46.0.1 Gatehouse/test", "/rdap/ip/78.46.0.200 Gatehouse/test"}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

// TestRegistryFaults: whatever a registry answers, nothing is claimed, and it is
// not asked again.
func TestRegistryFaults(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"not found":    http.NotFound,
		"no JSON":      func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"another kind": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"objectClassName":"domain"}`) },
		"no end": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"objectClassName":"ip network","startAddress":"78.46.0.0"}`)
		},
		"too long": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, strings.TrimSuffix(network, "}")+`,"x":"`+strings.Repeat("x", 2<<20)+`"}`)
		},
		"in circles": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
		"hangs up":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"too slow":   func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"other block": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, strings.ReplaceAll(network, "78.46", "78.47"))
		},
	} {
		var asked atomic.Int32
		where := registry(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			answer(w, r)
		})
		f := &owner.Finder{Registry: owner.NewRegistry(owner.RegistryOptions{
			HTTP: &http.Client{Timeout: 500 * time.Millisecond}, Bootstrap: where, Rate: 1000,
		})}
		if o := f.Of(t.Context(), host("78.46.0.1")); len(o.Claims) > 0 {
			t.Errorf("%s: %+v", name, o)
		}
		before := asked.Load()
		f.Of(t.Context(), host("78.46.0.1"))
		if asked.Load() != before || before > 5 {
			t.Errorf("%s: asked %d times, then %d", name, before, asked.Load())
		}
	}
}

// instant answers without a network, so that time can be the bubble's.
type instant struct{ asked []time.Time }

func (i *instant) RoundTrip(r *http.Request) (*http.Response, error) {
	text := `{"version":"1.0","publication":"2026-01-01T00:00:00Z","services":[[["0.0.0.0/0"],["https://rdap.invalid/"]]]}`
	if at, ok := strings.CutPrefix(r.URL.Path, "/ip/"); ok {
		i.asked = append(i.asked, time.Now())
		text = fmt.Sprintf(`{"objectClassName":"ip network","startAddress":%q,"endAddress":%[1]q,"name":"N"}`, at)
	}
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

func TestRegistryRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := &instant{}
		f := &owner.Finder{Registry: owner.NewRegistry(owner.RegistryOptions{HTTP: &http.Client{Transport: wire}, Wait: 4 * time.Second})}
		start := time.Now()
		var all sync.WaitGroup
		var told atomic.Int32
		for i := range 10 {
			all.Go(func() {
				if o := f.Of(t.Context(), host(fmt.Sprintf("78.46.%d.1", i))); len(o.Claims) > 0 {
					told.Add(1)
				}
			})
		}
		all.Wait()
		// One at once, then one a second for as long as anybody waits.
		if len(wire.asked) != 5 || told.Load() != 5 {
			t.Fatalf("asked %d times, %d were told; want 5", len(wire.asked), told.Load())
		}
		for i, at := range wire.asked {
			if at.Sub(start) != time.Duration(i)*time.Second {
				t.Errorf("question %d came after %v", i, at.Sub(start))
			}
		}
		s := f.Sources()
		if len(s) != 1 || !strings.Contains(s[0].Warning, "5 hosts were not asked about") {
			t.Errorf("%+v", s)
		}
		// Who was not asked about may be later; what is known is, for a day.
		time.Sleep(time.Minute)
		for i := range 10 {
			f.Of(t.Context(), host(fmt.Sprintf("78.46.%d.1", i)))
		}
		if len(wire.asked) != 10 {
			t.Errorf("asked %d times, want 10", len(wire.asked))
		}
		time.Sleep(25 * time.Hour)
		if f.Of(t.Context(), host("78.46.0.1")); len(wire.asked) != 11 {
			t.Errorf("asked %d times after a day, want 11", len(wire.asked))
		}
	})
}
