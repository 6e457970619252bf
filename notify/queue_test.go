package notify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func put(q *queue, payloads ...string) {
	for _, p := range payloads {
		q.put(&message{payload: p, received: time.Now()})
	}
}

// drain takes all there is, in short: a payload, -3 for 3 dropped, gap.
func drain(q *queue) string {
	var got []string
	for {
		e, ok, _ := q.take()
		switch {
		case !ok:
			return strings.Join(got, " ")
		case e.Kind == Message:
			got = append(got, e.Payload)
		case e.Kind == Dropped:
			got = append(got, fmt.Sprint("-", e.Lost))
		case e.Kind == Gap:
			got = append(got, "gap")
		}
	}
}

func newTestQueue(o Queue) *queue { return newQueue(o.withDefaults(Queue{}), "a", &counters{}) }

func TestOverflow(t *testing.T) {
	for name, tc := range map[string]struct {
		queue Queue
		want  string
	}{
		"drop the oldest": {Queue{Size: 3}, "-4 e f g"},
		"drop the newest": {Queue{Size: 3, Overflow: DropNewest}, "a b c -4"},
		"block":           {Queue{Size: 3, Overflow: Block}, "a b c d e f -1"},
		"room for all":    {Queue{Size: 7}, "a b c d e f g"},
		"room for one":    {Queue{Size: 1}, "-6 g"},
	} {
		t.Run(name, func(t *testing.T) {
			q := newTestQueue(tc.queue)
			put(q, "a", "b", "c", "d", "e", "f", "g")
			dropped := uint64(max(0, 7-q.bound()))
			if s := q.stats(); s.Dropped != dropped || s.Waiting != min(7, q.bound()) || q.total.dropped.Load() != int64(dropped) {
				t.Errorf("statistics: %+v", s)
			}
			if got := drain(q); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			put(q, "h")
			if got := drain(q); got != "h" {
				t.Errorf("got %q afterwards", got)
			}
		})
	}
}

// What was dropped and that there was a gap is told where it happened, and is
// never dropped itself.
func TestMarksStayInTheirPlace(t *testing.T) {
	errFirst, errSecond := errors.New("first"), errors.New("second")
	begin := time.Now()
	first, second := &gap{begin, errFirst}, &gap{begin.Add(time.Hour), errSecond}

	q := newTestQueue(Queue{Size: 2})
	put(q, "a")
	q.mark(first)
	put(q, "b")
	q.mark(second)
	if got := drain(q); got != "a gap b gap" {
		t.Errorf("got %q", got)
	}
	q.mark(first)
	put(q, "a", "b", "c") // the place of the first gap is dropped, not the gap
	q.mark(second)
	if got := drain(q); got != "-1 gap b c gap" {
		t.Errorf("got %q", got)
	}
	q.mark(first)
	q.mark(second)
	e, ok, err := q.take()
	if !ok || err != nil || e.Kind != Gap || !e.Since.Equal(begin) || !errors.Is(e.Err, errSecond) || e.Channel != "a" {
		t.Errorf("two gaps in one: %+v", e)
	}
	q = newTestQueue(Queue{Size: 1, Overflow: DropNewest})
	put(q, "a", "b")
	q.mark(first)
	put(q, "c")
	if got := drain(q); got != "a -2 gap" {
		t.Errorf("got %q", got)
	}
}

func TestBlockWaitsForALimitedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue(Queue{Size: 2, Overflow: Block, BlockFor: 10 * time.Second})
		put(q, "a", "b") // in the queue
		put(q, "c")      // waits
		<-time.After(6 * time.Second)
		put(q, "d") // waits
		<-time.After(6 * time.Second)
		put(q, "e") // c has waited for too long: there is room
		if s := q.stats(); s.Dropped != 1 || s.Waiting != 4 {
			t.Errorf("statistics: %+v", s)
		}
		put(q, "f") // as many wait as the queue holds
		if got := drain(q); got != "a b -1 d e -1" {
			t.Errorf("got %q", got)
		}
		put(q, "a", "b", "c", "d")
		if e, _, _ := q.take(); e.Payload != "a" { // c moves into the queue, and is safe
			t.Errorf("got %+v", e)
		}
		<-time.After(11 * time.Second)
		if s := q.stats(); s.Dropped != 3 || s.Waiting != 2 {
			t.Errorf("statistics: %+v", s)
		}
		if got := drain(q); got != "b c -1" {
			t.Errorf("got %q", got)
		}
		// One that nobody reads for long, read after all.
		put(q, "a", "b", "c", "d")
		<-time.After(time.Minute)
		if got := drain(q); got != "a b -2" {
			t.Errorf("got %q", got)
		}
	})
}

// Against a model: whatever is put, dropped and taken, nothing is lost without
// being told, nothing comes twice or out of order.
func TestQueueAccountsForEverything(t *testing.T) {
	for _, overflow := range []Overflow{DropOldest, DropNewest, Block} {
		for seed := range uint64(200) {
			r := rand.New(rand.NewPCG(seed, 1))
			q := newTestQueue(Queue{Size: 1 + r.IntN(20), Overflow: overflow})
			sent, expected := 0, 0
			check := func() bool {
				e, ok, _ := q.take()
				switch {
				case !ok:
					return false
				case e.Kind == Dropped:
					expected += int(e.Lost)
				case e.Kind == Message && e.Payload != strconv.Itoa(expected):
					t.Fatalf("%d, seed %d: got %s, want %d", overflow, seed, e.Payload, expected)
				case e.Kind == Message:
					expected++
				}
				return true
			}
			for range 300 {
				switch r.IntN(5) {
				case 0, 1, 2:
					put(q, strconv.Itoa(sent))
					sent++
				case 3:
					check()
				default:
					if r.IntN(10) == 0 {
						q.mark(&gap{})
					}
				}
			}
			for check() {
				continue
			}
			if expected != sent {
				t.Fatalf("%d, seed %d: accounted for %d of %d", overflow, seed, expected, sent)
			}
		}
	}
}

func TestAQueueThatEnded(t *testing.T) {
	q := newTestQueue(Queue{})
	put(q, "a")
	q.end(ErrUnsubscribed)
	q.end(ErrClosed) // the first end is the end
	put(q, "b")
	if _, ok, err := q.take(); ok || !errors.Is(err, ErrUnsubscribed) {
		t.Errorf("took something, %v", err)
	}
}

func TestQueueDefaults(t *testing.T) {
	for name, tc := range map[string]struct{ own, listener, want Queue }{
		"none":            {Queue{}, Queue{}, Queue{DefaultQueueSize, DropOldest, 0}},
		"the listener's":  {Queue{}, Queue{5, Block, 6}, Queue{5, Block, 6}},
		"a size":          {Queue{Size: 7}, Queue{5, Block, 6}, Queue{7, Block, 6}},
		"a policy":        {Queue{Overflow: DropOldest}, Queue{5, Block, 6}, Queue{5, DropOldest, 0}},
		"block, no limit": {Queue{Overflow: Block}, Queue{}, Queue{DefaultQueueSize, Block, DefaultBlockFor}},
	} {
		if got := tc.own.withDefaults(tc.listener.withDefaults(Queue{})); got != tc.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
}

func TestKindString(t *testing.T) {
	var got []string
	for k := range Kind(4) {
		got = append(got, k.String())
	}
	if !slices.Equal(got, []string{"message", "gap", "dropped", "invalid"}) {
		t.Errorf("%q", got)
	}
}

// A subscriber that does not read holds up neither the connection nor others.
func TestASlowSubscriberHoldsUpNobody(t *testing.T) {
	p := &fakePool{}
	l := startListener(t, p, Options{})
	stuck := make(chan struct{})
	started := make(chan struct{})
	for _, o := range []Overflow{DropOldest, DropNewest, Block} {
		_, err := l.Handle(t.Context(), "a", func(context.Context, Event) { started <- struct{}{}; <-stuck }, Queue{Size: 2, Overflow: o})
		if err != nil {
			t.Fatal(err)
		}
	}
	lazy := subscribe(t, l, "a", Queue{Size: 3})
	quick := subscribe(t, l, "a")
	for i := range 1000 {
		p.last().send("a", strconv.Itoa(i))
		wantMessage(t, quick, strconv.Itoa(i))
		if i == 0 {
			for range 3 {
				<-started
			}
		}
	}
	if e := next(t, lazy); e.Kind != Dropped || e.Lost != 997 {
		t.Errorf("got %+v", e)
	}
	if s := l.Stats(); s.Dropped < 3900 || s.Received != 1000 {
		t.Errorf("statistics: %+v", s)
	}
	go func() {
		for range started {
			continue
		}
	}()
	close(stuck)
	closeListener(t, l)
	close(started)
}
