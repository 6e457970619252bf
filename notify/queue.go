package notify

import (
	"cmp"
	"sync"
	"time"
)

// DefaultQueueSize is how many messages a queue holds.
const DefaultQueueSize = 256

// DefaultBlockFor is how long a message waits for room under [Block].
const DefaultBlockFor = time.Second

// Overflow says what becomes of a message for a subscriber whose queue is full.
// Whatever it is, it does not hold up other subscribers, and what is dropped is
// counted and told with an event of the kind [Dropped].
type Overflow uint8

// The policies. The zero value is the listener's default, which is DropOldest
// unless its options say otherwise.
const (
	// DropOldest makes room for the new message: for those who want to know the
	// latest.
	DropOldest Overflow = iota + 1
	// DropNewest drops the new message: for those who want to go on where they
	// are.
	DropNewest
	// Block lets the message wait outside of the queue for BlockFor, and drops
	// it if the subscriber made no room until then. At most as many wait as the
	// queue holds; a message beyond that is dropped at once.
	Block
)

// Queue is a subscriber's queue. The zero value is the listener's default.
type Queue struct {
	// Size is how many messages it holds. Default: that of the listener's
	// options, else 256.
	Size int
	// Overflow is what becomes of a message that finds it full. Default: that of
	// the listener's options, else DropOldest.
	Overflow Overflow
	// BlockFor is how long a message may wait for room under Block. Default:
	// one second.
	BlockFor time.Duration
}

func (q Queue) validate(field string) (faults []error) {
	if q.Size < 0 {
		faults = append(faults, configError(field+".Size", "%d is negative; leave it 0 for the default", q.Size))
	}
	if q.Overflow > Block {
		faults = append(faults, configError(field+".Overflow", "%d is none of DropOldest, DropNewest, Block", q.Overflow))
	}
	if q.BlockFor < 0 {
		faults = append(faults, configError(field+".BlockFor", "%s is negative; leave it 0 for %s", q.BlockFor, DefaultBlockFor))
	}
	if q.BlockFor != 0 && q.Overflow != Block {
		faults = append(faults, configError(field+".BlockFor", "has an effect with the policy Block only; leave it out"))
	}
	return faults
}

// withDefaults fills in what is left out: from the listener's queue, then from
// the constants.
func (q Queue) withDefaults(of Queue) Queue {
	q.Size = cmp.Or(q.Size, of.Size, DefaultQueueSize)
	if q.Overflow == 0 {
		q.Overflow, q.BlockFor = of.Overflow, of.BlockFor
	}
	q.Overflow = cmp.Or(q.Overflow, DropOldest)
	if q.Overflow == Block {
		q.BlockFor = cmp.Or(q.BlockFor, DefaultBlockFor)
	}
	return q
}

// queue is a ring of messages that grows up to its bound. One goroutine puts,
// and never waits; any number take.
type queue struct {
	Queue
	channel string
	// ready has a token when there may be something to take, the end included.
	ready chan struct{}
	// done is closed at the end.
	done chan struct{}

	mu      sync.Mutex
	ring    []item
	head, n int
	// tail are the marks for the next message.
	tail          marks
	queued, taken uint64
	dropped       uint64
	total         *counters
	err           error
}

// item is a message and what happened before it.
type item struct {
	*message

	before marks
}

func newQueue(options Queue, channel string, total *counters) *queue {
	return &queue{
		Queue: options, channel: channel, total: total,
		ready: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// bound is how many messages there may be, those that wait for room included.
func (q *queue) bound() int {
	if q.Overflow == Block {
		return 2 * q.Size
	}
	return q.Size
}

// put adds a message, or drops one. It never waits.
func (q *queue) put(m *message) {
	q.mu.Lock()
	if q.err != nil {
		q.mu.Unlock()
		return
	}
	if q.n < q.bound() || q.makeRoom(m.received) {
		q.push(m)
	} else {
		q.drop(1)
		q.tail.lost++
	}
	q.mu.Unlock()
	q.wake()
}

func (q *queue) push(m *message) {
	if q.n == len(q.ring) {
		q.grow()
	}
	q.ring[(q.head+q.n)%len(q.ring)] = item{m, q.tail}
	q.tail = marks{}
	q.n++
	q.queued++
	q.total.queued.Add(1)
}

func (q *queue) grow() {
	larger := make([]item, min(q.bound(), max(8, 2*len(q.ring))))
	for i := range q.n {
		larger[i] = *q.at(i)
	}
	q.ring, q.head = larger, 0
}

func (q *queue) at(i int) *item { return &q.ring[(q.head+i)%len(q.ring)] }

// makeRoom drops what the policy says, and reports whether there is room now.
func (q *queue) makeRoom(now time.Time) bool {
	switch q.Overflow {
	case DropOldest:
		q.discard(0, 1)
		return true
	case Block:
		q.expire(now)
		return q.n < q.bound()
	default:
		return false
	}
}

// expire drops what has waited too long outside of the queue. Those that wait
// stand in the order of their arrival.
func (q *queue) expire(now time.Time) {
	expired := 0
	for q.Size+expired < q.n && now.Sub(q.at(q.Size+expired).received) > q.BlockFor {
		expired++
	}
	if expired > 0 {
		q.discard(q.Size, expired)
	}
}

// discard drops count messages from a place on. That it did, and what had
// happened before them, is told before the message that follows.
func (q *queue) discard(from, count int) {
	told := marks{}
	for i := range count {
		told = told.then(q.at(from + i).before).then(marks{lost: 1})
	}
	if next := from + count; next < q.n {
		it := q.at(next)
		it.before = told.then(it.before)
	} else {
		q.tail = told.then(q.tail)
	}
	q.drop(count)
	if from == 0 {
		for i := range count {
			*q.at(i) = item{}
		}
		q.head = (q.head + count) % len(q.ring)
	} else {
		for i := from; i+count < q.n; i++ {
			*q.at(i) = *q.at(i + count)
		}
		for i := q.n - count; i < q.n; i++ {
			*q.at(i) = item{}
		}
	}
	q.n -= count
}

func (q *queue) drop(count int) {
	q.dropped += uint64(count) //nolint:gosec // never negative
	q.total.dropped.Add(int64(count))
}

// mark tells of a gap behind all that is there.
func (q *queue) mark(g *gap) {
	q.mu.Lock()
	q.tail = q.tail.then(marks{gap: g})
	q.mu.Unlock()
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns the next event, whether there was one, and how the queue ended.
func (q *queue) take() (Event, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		q.wake() // whoever else waits
		return Event{}, false, q.err
	}
	if q.Overflow == Block && q.n > q.Size {
		q.expire(time.Now())
	}
	before := &q.tail
	if q.n > 0 {
		before = &q.at(0).before
	}
	if e, ok := q.takeMark(before); ok {
		return e, true, nil
	}
	if q.n == 0 {
		return Event{}, false, nil
	}
	m := q.at(0).message
	*q.at(0) = item{}
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	q.taken++
	if q.n > 0 || q.tail != (marks{}) {
		q.wake() // several may take
	}
	return Event{Kind: Message, Channel: q.channel, Payload: m.payload, PID: m.pid, Received: m.received}, true, nil
}

// takeMark takes one of the marks as an event: first what was dropped, since
// that arrived before the gap or would have been lost in it.
func (q *queue) takeMark(m *marks) (Event, bool) {
	e := Event{Channel: q.channel}
	switch {
	case m.lost > 0:
		e.Kind, e.Lost = Dropped, m.lost
		m.lost = 0
	case m.gap != nil:
		e.Kind, e.Since, e.Err = Gap, m.gap.since, m.gap.err
		m.gap = nil
	default:
		return e, false
	}
	if q.n > 0 || *m != (marks{}) {
		q.wake()
	}
	return e, true
}

// end discards what is there and refuses the rest. The first reason stays.
func (q *queue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return
	}
	q.err = err
	q.ring, q.n, q.tail = nil, 0, marks{}
	close(q.done)
	q.wake()
}

func (q *queue) ended() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// stats counts what has expired, too.
func (q *queue) stats() SubscriptionStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.Overflow == Block && q.n > q.Size {
		q.expire(time.Now())
	}
	return SubscriptionStats{Waiting: q.n, Queued: q.queued, Taken: q.taken, Dropped: q.dropped}
}
