package limit

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"
)

// Queue decides who is next where only so many can compute at a time. Between
// identities it is fair by weight, whatever number of requests each has waiting;
// among one identity's own, the first comes first.
//
// It is start-time fair queueing (Goyal, Vin, Cheng 1996): each request is given
// a start tag, the later of the queue's virtual time and the finish tag of the
// identity's request before, and the lowest tag is next. A request is taken to
// cost the same as any other, for what it will cost is not known before.
type Queue struct {
	mu      sync.Mutex
	slots   int
	length  int
	inside  int
	virtual float64 // start tag of who went in last
	order   uint64  // breaks ties: first come
	heap    waiting
	finish  map[string]*tag // of identities that wait or did of late
	took    float64         // seconds that a request takes, a moving mean
}

type tag struct {
	finish  float64
	waiting int
}

// waiter is one request in the queue.
type waiter struct {
	start float64
	order uint64
	id    string
	enter chan struct{} // closed when it may go in
	index int           // in the heap; -1 when it is out
}

// ErrFull says that as many wait as may; ErrLate that a place will not become
// free in time.
var (
	ErrFull = errors.New("the queue is full")
	ErrLate = errors.New("no place becomes free in time")
)

// NewQueue makes a queue for so many requests inside and so many waiting.
func NewQueue(slots, length int) *Queue {
	return &Queue{slots: slots, length: length, finish: make(map[string]*tag)}
}

// SetSlots changes how many may be inside.
func (q *Queue) SetSlots(slots, length int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.slots, q.length = slots, length
	q.admit()
}

// Stats are how many are inside and how many wait.
func (q *Queue) Stats() (inside, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inside, len(q.heap)
}

// TryEnter takes a place that is free, when nobody waits for one, and returns what
// gives it back; nil when there is none.
func (q *Queue) TryEnter() (leave func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.inside >= q.slots || len(q.heap) > 0 {
		return nil
	}
	q.inside++
	return q.leaving()
}

// Enter waits for a place and returns what gives it back. A weight below 1 is
// 1. It fails at once when the queue is full, or when ctx will have ended by the
// time a place is likely to be free; and when ctx ends first.
func (q *Queue) Enter(ctx context.Context, id string, weight int) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	q.mu.Lock()
	if q.inside < q.slots && len(q.heap) == 0 {
		q.inside++
		q.mu.Unlock()
		return q.leaving(), nil
	}
	if len(q.heap) >= q.length {
		q.mu.Unlock()
		return nil, ErrFull
	}
	w := q.join(id, max(weight, 1))
	if deadline, ok := ctx.Deadline(); ok && q.wait(w) > time.Until(deadline) {
		q.quit(w)
		q.mu.Unlock()
		return nil, ErrLate
	}
	q.mu.Unlock()

	select {
	case <-w.enter:
		return q.leaving(), nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.index < 0 {
		// It was let in at the same moment: the place goes to the next.
		q.inside--
		q.admit()
	} else {
		q.quit(w)
	}
	return nil, ctx.Err()
}

// join puts a request in line.
func (q *Queue) join(id string, weight int) *waiter {
	t := q.finish[id]
	if t == nil {
		t = new(tag)
		q.finish[id] = t
	}
	q.order++
	w := &waiter{start: max(q.virtual, t.finish), order: q.order, id: id, enter: make(chan struct{})}
	t.finish = w.start + 1/float64(weight)
	t.waiting++
	heap.Push(&q.heap, w)
	return w
}

// quit takes a request out of line.
func (q *Queue) quit(w *waiter) {
	heap.Remove(&q.heap, w.index)
	q.left(w)
}

func (q *Queue) left(w *waiter) {
	t := q.finish[w.id]
	if t.waiting--; t.waiting == 0 && t.finish <= q.virtual+1 {
		delete(q.finish, w.id)
	}
}

// admit lets in who is next, as far as there are places.
func (q *Queue) admit() {
	for q.inside < q.slots && len(q.heap) > 0 {
		w := heap.Pop(&q.heap).(*waiter)
		q.virtual = w.start
		q.left(w)
		q.inside++
		close(w.enter)
	}
	if len(q.heap) == 0 {
		// Nobody waits, so nobody is owed anything.
		clear(q.finish)
		q.virtual = 0
	}
}

// wait is how long w is likely to wait: the requests before it, at the pace of
// late. Without one known it is nothing.
func (q *Queue) wait(w *waiter) time.Duration {
	before := 0
	for _, other := range q.heap {
		if other.before(w) {
			before++
		}
	}
	rounds := float64(before/max(q.slots, 1)) * q.took
	return time.Duration(min(rounds, 86400) * float64(time.Second))
}

// leaving returns what gives a place back, once.
func (q *Queue) leaving() func() {
	began := time.Now()
	var once sync.Once
	return func() {
		once.Do(func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.took += (time.Since(began).Seconds() - q.took) / 16
			q.inside--
			q.admit()
		})
	}
}

func (w *waiter) before(o *waiter) bool {
	return w.start < o.start || w.start == o.start && w.order < o.order
}

// waiting is a heap of requests, the next on top.
type waiting []*waiter

func (h waiting) Len() int           { return len(h) }
func (h waiting) Less(i, j int) bool { return h[i].before(h[j]) }
func (h waiting) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *waiting) Push(x any) {
	w := x.(*waiter)
	w.index = len(*h)
	*h = append(*h, w)
}

func (h *waiting) Pop() any {
	old := *h
	w := old[len(old)-1]
	*h, w.index = old[:len(old)-1], -1
	return w
}
