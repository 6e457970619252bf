package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// FuzzSegments composes any queue into segments: nothing is lost, the order
// holds, what must be alone is, no group is too large, and two scopes never
// meet.
func FuzzSegments(f *testing.F) {
	f.Add(uint64(1), true, 20, 8)
	f.Add(uint64(2), false, 20, 8)
	f.Add(uint64(3), true, 100, 1)
	f.Fuzz(func(t *testing.T, seed uint64, readOnly bool, count, group int) {
		group = 1 + int(uint(group)%100)
		e := &Engine{setters: setters(), limiter: newLimiter(), opts: Options{MaxGroup: group}}
		c := &conn{engine: e, readOnly: readOnly, session: &Session{}, prepared: map[*statement]struct{}{}}
		r := rand.New(rand.NewPCG(seed, 1))
		var queue []*request
		for i := range min(max(count, 0), 300) {
			req := &request{statement: &statement{name: fmt.Sprint(i), sql: "select 1"}, solo: r.IntN(10) == 0}
			if r.IntN(4) == 0 {
				req.settings = []string{"app.tenant", fmt.Sprint(i)}
			}
			if r.IntN(3) == 0 {
				req.limit = 1000 * r.Int64N(4)
			}
			queue = append(queue, req)
		}
		c.queue = slices.Clone(queue)
		c.load.Store(int32(len(queue)))
		for left := len(queue); left > 0; {
			c.compose(1)
			if len(c.queue) >= left {
				t.Fatal("a flush of nothing")
			}
			left = len(c.queue)
		}
		var got []*request
		for _, seg := range c.inflight {
			var members []*request
			for _, o := range seg.ops {
				if o.req != nil {
					members = append(members, o.req)
				}
			}
			if len(members) == 0 && len(seg.ops) == 1 {
				continue // sets the limit for what follows
			}
			if len(members) == 0 || len(members) > group || len(members) > 1 && !readOnly {
				t.Fatalf("a segment of %d", len(members))
			}
			for _, m := range members {
				if m.limit != members[0].limit && (m.limit == 0 || members[0].limit == 0) {
					t.Fatal("something without a limit shares a segment with something that has one")
				}
				if m.alone() && len(members) > 1 {
					t.Fatal("something that must be alone is in a group")
				}
			}
			got = append(got, members...)
		}
		if !slices.Equal(got, queue) {
			t.Fatal("requests are lost or out of order")
		}
	})
}

func TestAFlushTakesHalfOfWhatThereIs(t *testing.T) {
	for name, tc := range map[string]struct {
		readOnly               bool
		queued, inFlight, want int
	}{
		"all is queued":             {true, 40, 0, 20},
		"more than half":            {true, 60, 4, 32},
		"less than half":            {true, 10, 50, 10},
		"a few":                     {true, 5, 0, 5},
		"each with its own Sync":    {false, 40, 0, 40},
		"more than a few, unevenly": {true, 9, 0, 8},
	} {
		e := &Engine{opts: Options{MaxGroup: 100}}
		c := &conn{engine: e, readOnly: tc.readOnly, session: &Session{}, prepared: map[*statement]struct{}{}}
		for range tc.queued {
			c.queue = append(c.queue, &request{statement: &statement{name: "s", sql: "select 1"}})
		}
		c.peak = tc.queued + tc.inFlight
		c.compose(1)
		if got := tc.queued - len(c.queue); got != tc.want {
			t.Errorf("%s: %d of %d, want %d", name, got, tc.queued, tc.want)
		}
	}
}

func TestNearTheServerHalvesAreGathered(t *testing.T) {
	for name, tc := range map[string]struct {
		flights, queued, peak int
		roundTrip             time.Duration
		want                  bool
	}{
		"the server has nothing":          {0, 1, 128, 0, false},
		"less than half":                  {1, 63, 128, 0, true},
		"half":                            {1, 64, 128, 0, false},
		"half, and the server has enough": {2, 64, 128, 0, true},
		"few callers":                     {1, 1, 16, 0, false},
		"far away":                        {1, 1, 128, time.Millisecond, false},
	} {
		c := &conn{flights: tc.flights, peak: tc.peak, queue: make([]*request, tc.queued)}
		c.roundTrip.Store(int64(tc.roundTrip))
		if got := c.gathers(); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// When there are fewer callers than there were, halves get smaller.
func TestThePeakFalls(t *testing.T) {
	c := &conn{engine: &Engine{opts: Options{MaxGroup: 100}}, session: &Session{}, prepared: map[*statement]struct{}{}, peak: 128}
	c.load.Store(1)
	for n := 0; c.half() >= gatherFrom; n++ {
		if n > 100 {
			t.Fatal("a burst that is long over still holds statements up")
		}
		c.queue = []*request{{statement: &statement{name: "s", sql: "select 1"}}}
		c.compose(1)
	}
}

func TestVerdictsOfASegment(t *testing.T) {
	settings, a, b, d := op{setter: &statement{}}, op{req: &request{}}, op{req: &request{}}, op{req: &request{}}
	failed := &pgconn.PgError{Code: "22012"}
	for name, tc := range map[string]struct {
		ops      []op
		at       int
		err      *pgconn.PgError
		readOnly bool
		want     []string
	}{
		"all well":                     {[]op{a, b}, 2, nil, true, []string{"ok", "ok"}},
		"the second fails":             {[]op{a, b, d}, 1, failed, true, []string{"ok", "error", "skipped"}},
		"the first fails":              {[]op{a, b}, 0, failed, true, []string{"error", "skipped"}},
		"its settings fail":            {[]op{settings, a}, 0, failed, false, []string{"error"}},
		"settings in a group fail":     {[]op{a, settings, b, d}, 1, failed, true, []string{"ok", "error", "skipped"}},
		"a read that was moved fails":  {[]op{{}, a, b}, 0, failed, true, []string{"skipped", "skipped"}},
		"the commit of a write fails":  {[]op{a}, 1, failed, false, []string{"error"}},
		"the commit of a group fails":  {[]op{a, b}, 2, failed, true, []string{"skipped", "skipped"}},
		"the commit of one read fails": {[]op{a}, 1, failed, true, []string{"error"}},
	} {
		seg := segment{ops: tc.ops, at: tc.at, err: tc.err}
		var got []string
		for i, o := range tc.ops {
			if o.req == nil {
				continue
			}
			switch v, err := seg.verdictOf(i, tc.readOnly); {
			case v == skipped:
				got = append(got, "skipped")
			case err != nil:
				got = append(got, "error")
			default:
				got = append(got, "ok")
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestStatementsAreEvictedByAge(t *testing.T) {
	c := statements{bound: 10}
	for i := range 10 {
		if out := c.put(&statement{sql: fmt.Sprint(i)}); len(out) != 0 {
			t.Fatalf("evicted %d of %d", len(out), i+1)
		}
	}
	for i := range 5 {
		c.get(fmt.Sprint(i)) // used since
	}
	out := c.put(&statement{sql: "new"})
	for _, s := range out {
		if s.sql < "5" || s.sql == "new" {
			t.Errorf("%s was evicted, which is in use", s.sql)
		}
	}
	if len(out) == 0 || c.get("new") == nil || c.get("0") == nil || c.get("nothing") != nil {
		t.Error("what is kept")
	}
	newer := &statement{sql: "0"}
	if old := c.put(newer); len(old) != 1 || old[0].sql != "0" || old[0] == newer {
		t.Errorf("a statement of the same text: %v", old)
	}
	if c.drop(&statement{sql: "0"}) || !c.drop(newer) || c.get("0") != nil {
		t.Error("only the statement itself can be dropped")
	}
	if first, second := c.name(), c.name(); first == second {
		t.Error("a name was given twice")
	}
}

// A ping that was given up before it was sent leaves the connection to others.
func TestPingGivenUpInTheQueue(t *testing.T) {
	c := &conn{engine: &Engine{}, checking: true}
	r := requests.Get().(*request)
	r.kind = kindPing
	c.queue = append(c.queue, r)
	c.load.Add(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.giveUp(ctx, r); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if c.checking || len(c.queue) > 0 || c.load.Load() != 0 {
		t.Error("others wait for a ping that is not sent")
	}
}
