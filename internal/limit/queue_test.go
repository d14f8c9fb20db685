package limit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/internal/limit"
)

// waits measures how long one polite identity waits, beside flood requests of
// another that are always there.
func waits(t *testing.T, flood int) (median time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := limit.NewQueue(2, 5000)
		ctx, cancel := context.WithCancel(t.Context())
		for range flood {
			go func() {
				for {
					leave, err := q.Enter(ctx, "flood", 1)
					if err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
					leave()
				}
			}()
		}
		synctest.Wait()
		var took []time.Duration
		for range 50 {
			began := time.Now()
			leave, err := q.Enter(ctx, "polite", 1)
			if err != nil {
				t.Error(err)
				break
			}
			took = append(took, time.Since(began))
			time.Sleep(100 * time.Millisecond)
			leave()
			time.Sleep(30 * time.Millisecond)
		}
		slices.Sort(took)
		median = took[len(took)/2]
		cancel()
		time.Sleep(time.Second)
		if inside, waiting := q.Stats(); inside != 0 || waiting != 0 {
			t.Errorf("%d inside and %d waiting are left", inside, waiting)
		}
	})
	return median
}

// TestFlood: one identity that floods does not double what another waits beside
// two streams of it.
func TestFlood(t *testing.T) {
	calm, flooded := waits(t, 3), waits(t, 1000)
	if flooded > 2*calm+time.Millisecond || flooded > 200*time.Millisecond {
		t.Errorf("median wait %s beside 1000, %s beside 3", flooded, calm)
	}
	t.Logf("median wait %s beside 1000 waiting requests, %s beside 3", flooded, calm)
}

func TestWeights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := limit.NewQueue(1, 5000)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		var order []string
		hold, err := q.Enter(ctx, "first", 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"light", "heavy"} {
			weight := map[string]int{"light": 1, "heavy": 3}[id]
			for range 400 {
				go func() {
					leave, err := q.Enter(ctx, id, weight)
					if err != nil {
						return
					}
					mu.Lock()
					order = append(order, id)
					mu.Unlock()
					time.Sleep(time.Millisecond)
					leave()
				}()
			}
		}
		synctest.Wait()
		hold()
		time.Sleep(200 * time.Millisecond)
		cancel()
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		heavy := 0
		for _, id := range order[:200] {
			if id == "heavy" {
				heavy++
			}
		}
		if heavy < 145 || heavy > 155 {
			t.Errorf("%d of 200 turns for a weight of 3 beside 1", heavy)
		}
	})
}

func TestFull(t *testing.T) {
	q := limit.NewQueue(1, 1)
	leave, err := q.Enter(t.Context(), "a", 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error)
	go func() {
		_, err := q.Enter(ctx, "a", 1)
		second <- err
	}()
	for {
		if _, waiting := q.Stats(); waiting == 1 {
			break
		}
	}
	if _, err := q.Enter(t.Context(), "b", 1); !errors.Is(err, limit.ErrFull) {
		t.Errorf("a third comes in line: %v", err)
	}
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	leave()
	leave() // counts once
	if inside, waiting := q.Stats(); inside != 0 || waiting != 0 {
		t.Errorf("%d inside, %d waiting", inside, waiting)
	}
}

// TestLate: who would be served after its deadline need not wait for it.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := limit.NewQueue(1, 100)
		for range 100 { // a hundred requests of ten seconds set the pace
			leave, err := q.Enter(t.Context(), "a", 1)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			leave()
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 5 {
			go func() {
				if leave, err := q.Enter(ctx, "a", 1); err == nil {
					<-ctx.Done()
					leave()
				}
			}()
		}
		synctest.Wait()
		soon, stop := context.WithTimeout(ctx, 15*time.Second)
		defer stop()
		began := time.Now()
		if _, err := q.Enter(soon, "a", 1); !errors.Is(err, limit.ErrLate) || time.Since(began) != 0 {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		cancel()
		synctest.Wait()
	})
}

// TestNeverMore has hundreds come and leave at random, and counts.
func TestNeverMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := limit.NewQueue(3, 500)
		var mu sync.Mutex
		inside, most, served := 0, 0, 0
		count := func(delta int) {
			mu.Lock()
			defer mu.Unlock()
			inside += delta
			served += max(delta, 0)
			most = max(most, inside)
		}
		for i := range 300 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%40+1)*time.Second)
				defer cancel()
				leave, err := q.Enter(ctx, fmt.Sprint(i%7), i%3)
				if err != nil {
					return
				}
				count(1)
				time.Sleep(time.Duration(i%5) * 100 * time.Millisecond)
				count(-1)
				leave()
			}()
			if i%50 == 0 {
				synctest.Wait()
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if left, waiting := q.Stats(); most > 3 || left != 0 || waiting != 0 || served < 200 {
			t.Errorf("%d inside at most, %d served, %d inside and %d waiting at the end", most, served, left, waiting)
		}
		q.SetSlots(5, 500)
	})
}
