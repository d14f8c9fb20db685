package limit_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/key"
	"gatehouse/internal/limit"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func admit(t *testing.T, l *limit.Limiter, id string, limits key.Limits, want int64, now time.Time) *limit.Grant {
	t.Helper()
	g, refusal := l.Admit(id, limits, want, now)
	if refusal != nil {
		t.Fatalf("refused: %+v", refusal)
	}
	return g
}

func refused(t *testing.T, l *limit.Limiter, id string, limits key.Limits, want int64, now time.Time, reason string) *limit.Refusal {
	t.Helper()
	_, refusal := l.Admit(id, limits, want, now)
	if refusal == nil || refusal.Reason != reason || refusal.RetryAfter <= 0 || refusal.Message() == "" {
		t.Fatalf("got %+v, want a refusal for %s", refusal, reason)
	}
	return refusal
}

func TestRequests(t *testing.T) {
	l := limit.New()
	limits := key.Limits{PerMinute: 60}
	for range 60 {
		admit(t, l, "a", limits, 0, noon).Settle(0, noon)
	}
	over := refused(t, l, "a", limits, 0, noon, limit.Requests)
	if over.RetryAfter != time.Second {
		t.Errorf("retry after %s", over.RetryAfter)
	}
	admit(t, l, "b", limits, 0, noon).Settle(0, noon) // another's limit is its own
	admit(t, l, "a", limits, 0, noon.Add(time.Second)).Settle(0, noon.Add(time.Second))
	refused(t, l, "a", limits, 0, noon.Add(time.Second), limit.Requests)
	requests, _ := l.States("a", limits, noon.Add(31*time.Second))
	if requests.Limit != 60 || requests.Remaining != 30 || requests.Reset != 30*time.Second {
		t.Errorf("%+v", requests)
	}
}

func TestStreams(t *testing.T) {
	l := limit.New()
	limits := key.Limits{Streams: 2}
	one, _ := admit(t, l, "a", limits, 0, noon), admit(t, l, "a", limits, 0, noon)
	refused(t, l, "a", limits, 0, noon, limit.Streams)
	one.Settle(0, noon)
	one.Settle(0, noon) // counts once
	admit(t, l, "a", limits, 0, noon)
	refused(t, l, "a", limits, 0, noon, limit.Streams)
}

func TestTokensDay(t *testing.T) {
	l := limit.New()
	limits := key.Limits{TokensDay: 1000}
	first := admit(t, l, "a", limits, 800, noon)
	second := admit(t, l, "a", limits, 800, noon)
	if first.Budget() != 800 || second.Budget() != 200 {
		t.Errorf("budgets %d and %d", first.Budget(), second.Budget())
	}
	over := refused(t, l, "a", limits, 1, noon, limit.TokensDay)
	if over.RetryAfter != 12*time.Hour {
		t.Errorf("retry after %s", over.RetryAfter)
	}
	first.Settle(100, noon) // 700 come back
	if third := admit(t, l, "a", limits, 5000, noon); third.Budget() != 700 {
		t.Errorf("budget %d", third.Budget())
	}
	// What asks for no tokens is not held up.
	admit(t, l, "a", limits, 0, noon)
	// A new day is a new budget; an old one, by a clock set back, is not.
	refused(t, l, "a", limits, 1, noon.Add(-13*time.Hour), limit.TokensDay)
	admit(t, l, "a", limits, 1000, noon.Add(12*time.Hour))
}

func TestTokensMinute(t *testing.T) {
	l := limit.New()
	limits := key.Limits{TokensMinute: 600}
	now := noon
	g := admit(t, l, "a", limits, 600, now)
	refused(t, l, "a", limits, 10, now, limit.TokensMinute)
	g.Settle(900, now) // 300 more than it was given are owed
	if _, tokens := l.States("a", limits, now.Add(30*time.Second)); tokens.Remaining != 0 {
		t.Errorf("%+v", tokens)
	}
	if _, tokens := l.States("a", limits, now.Add(60*time.Second)); tokens.Remaining < 290 || tokens.Remaining > 310 {
		t.Errorf("%+v", tokens)
	}
}

func TestSeed(t *testing.T) {
	l := limit.New()
	limits := key.Limits{TokensDay: 1000}
	l.Seed("a", 900, noon)
	if g := admit(t, l, "a", limits, 500, noon); g.Budget() != 100 {
		t.Errorf("budget %d", g.Budget())
	}
}

func TestNoLimits(t *testing.T) {
	g := admit(t, limit.New(), "a", key.Limits{}, 1<<40, noon)
	if g.Budget() != -1 {
		t.Errorf("budget %d", g.Budget())
	}
	var none *limit.Grant
	none.Settle(3, noon)
	if none.Budget() != -1 {
		t.Error("the nil grant has a budget")
	}
}

// TestForgets shows a million identities to the limiter, over an hour.
func TestForgets(t *testing.T) {
	l := limit.New()
	limits := key.Limits{PerMinute: 10}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 1_000_000 {
		now := noon.Add(time.Duration(i) * time.Hour / 1_000_000)
		g, _ := l.Admit(fmt.Sprint(i), limits, 0, now)
		g.Settle(0, now)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	// Two minutes of an hour are 33,000, and forgetting lags a little.
	if n := l.Len(); n > 200_000 {
		t.Errorf("%d are remembered", n)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 100<<20 {
		t.Errorf("%d MiB for them", grown>>20)
	}
	runtime.KeepAlive(l)
}

// TestInterleaved has many at once, and adds up: never more tokens than the
// limit are set aside and used, and no stream is left over.
func TestInterleaved(t *testing.T) {
	l := limit.New()
	limits := key.Limits{TokensDay: 10_000, Streams: 8}
	var mu sync.Mutex
	total := int64(0)
	var wg sync.WaitGroup
	now := noon
	for g := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for range 2000 {
				grant, refusal := l.Admit("a", limits, r.Int64N(300), now)
				if refusal != nil {
					continue
				}
				used := min(r.Int64N(300), grant.Budget())
				mu.Lock()
				total += used
				mu.Unlock()
				grant.Settle(used, now)
			}
		})
	}
	wg.Wait()
	if total > 10_000 || total < 9_000 {
		t.Errorf("%d tokens of 10000", total)
	}
	for range 8 {
		admit(t, l, "a", key.Limits{Streams: 8}, 0, now)
	}
}

func BenchmarkAdmit(b *testing.B) {
	l := limit.New()
	limits := key.Limits{PerMinute: 1 << 40, TokensMinute: 1 << 40, TokensDay: 1 << 40, Streams: 1 << 30}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		id := fmt.Sprint(rand.Int())
		for pb.Next() {
			g, refusal := l.Admit(id, limits, 100, time.Now())
			if refusal != nil {
				b.Error(refusal)
				return
			}
			g.Settle(50, time.Now())
		}
	})
}
