package owner

import (
	"context"
	"sync"
	"time"
)

// memo remembers answers for a while, and has a question that is being asked
// asked once. It holds at most so many; a full one forgets any.
type memo[K comparable, V any] struct {
	most int
	keep time.Duration

	mu      sync.Mutex
	answers map[K]*answer[V]
}

type answer[V any] struct {
	done  chan struct{} // closed when the rest is set
	value V
	good  bool // false: whoever asked gave up
	until time.Time
}

// get returns the remembered answer to k, or asks. What ask returns with false
// is not remembered.
func (m *memo[K, V]) get(ctx context.Context, k K, ask func() (V, bool)) (V, bool) {
	for {
		m.mu.Lock()
		a := m.answers[k]
		if a == nil {
			a = m.start(k)
			m.mu.Unlock()
			a.value, a.good = ask()
			a.until = time.Now().Add(m.keep)
			close(a.done)
			if !a.good {
				m.forget(k, a)
			}
			return a.value, a.good
		}
		m.mu.Unlock()
		select {
		case <-a.done:
		case <-ctx.Done():
			var none V
			return none, false
		}
		if a.good && time.Now().Before(a.until) {
			return a.value, true
		}
		m.forget(k, a)
	}
}

// start makes room and puts an answer to be there. The caller holds mu.
func (m *memo[K, V]) start(k K) *answer[V] {
	if m.answers == nil {
		m.answers = make(map[K]*answer[V])
	}
	if len(m.answers) >= m.most {
		for old, a := range m.answers {
			select {
			case <-a.done:
				delete(m.answers, old)
			default: // somebody waits for it
				continue
			}
			break
		}
	}
	a := &answer[V]{done: make(chan struct{})}
	m.answers[k] = a
	return a
}

func (m *memo[K, V]) forget(k K, a *answer[V]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answers[k] == a {
		delete(m.answers, k)
	}
}
