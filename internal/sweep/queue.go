package sweep

import "container/heap"

// queue is SYNs by when they may be sent, the earliest first.
type queue []item

func (q *queue) push(it item) { heap.Push((*byTurn)(q), it) }
func (q *queue) pop() item    { return heap.Pop((*byTurn)(q)).(item) }

type byTurn []item

func (h byTurn) Len() int           { return len(h) }
func (h byTurn) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h byTurn) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byTurn) Push(x any)        { *h = append(*h, x.(item)) }
func (h *byTurn) Pop() any {
	last := len(*h) - 1
	it := (*h)[last]
	(*h)[last] = item{}
	*h = (*h)[:last]
	return it
}
