package notify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgkeel/pgkeel/providers"
)

func publish(t testing.TB, o Outbox, q providers.Querier, channel, payload string) {
	t.Helper()
	eventually(t, "published", func() bool { // after a failover the pool may hold an old connection
		_, err := o.Publish(t.Context(), q, channel, payload)
		return err == nil
	})
}

func newOutbox(t testing.TB, p providers.Querier, o Outbox) Outbox {
	t.Helper()
	for range 2 { // the second time it is there
		if err := o.Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// None lost, none twice: across 100 kills of the listener's connection, with
// senders that commit out of order, roll back and hold their transactions open.
func TestOutboxLosesNothingAcross100Kills(t *testing.T) {
	const kills, senders = 100, 4
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 16}})
	o := newOutbox(t, p, Outbox{PageSize: 50})
	l := listenOn(t, p, Options{RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond})
	f := follow(t, o, p, l, "orders", Position{})

	ctx, stop := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	var counts [senders]int
	for i := range senders {
		sending.Go(func() {
			for ctx.Err() == nil {
				n, err := sendSome(t.Context(), p, o, i, counts[i])
				if err != nil {
					t.Error(err)
					return
				}
				counts[i] += n
			}
		})
	}
	for range kills {
		before := l.Stats().Gaps
		kill(t, p, l)
		eventually(t, "it is back", func() bool { return l.Stats().Gaps > before })
	}
	stop()
	sending.Wait()
	publish(t, o, p, "orders", "end")

	var got [senders]int
	var last Position
	for r := f.next(t); r.Payload != "end"; r = f.next(t) {
		sender, n, _ := strings.Cut(r.Payload, ":")
		i, _ := strconv.Atoi(sender)
		if n != strconv.Itoa(got[i]) {
			t.Fatalf("sender %d: %s instead of %d", i, n, got[i])
		}
		got[i]++
		if r.XID < last.XID || r.XID == last.XID && r.ID <= last.ID {
			t.Fatalf("%v came after %v", r.Position, last)
		}
		last = r.Position
	}
	if got != counts {
		t.Errorf("got %v of %v", got, counts)
	}
	f.stop()
	if err := <-f.end; !errors.Is(err, context.Canceled) {
		t.Errorf("the reason is %v", err)
	}
	if len(f.records) > 0 {
		t.Errorf("%d too many", len(f.records))
	}
	t.Logf("%v sent across %d gaps", counts, l.Stats().Gaps)
}

// sendSome sends a few messages in one transaction and returns how many, which
// is none if it rolls back.
func sendSome(ctx context.Context, p providers.Pool, o Outbox, sender, from int) (int, error) {
	tx, err := p.Begin(ctx, providers.TxOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing
	n := 1 + rand.IntN(3)
	for i := range n {
		if _, err := o.Publish(ctx, tx, "orders", fmt.Sprint(sender, ":", from+i)); err != nil {
			return 0, err
		}
	}
	<-time.After(rand.N(3 * time.Millisecond))
	if rand.IntN(5) == 0 {
		return 0, nil
	}
	return n, tx.Commit(ctx)
}

// A lower id commits after a higher one: who goes by ids alone loses it.
func TestOutboxIDsThatCommitOutOfOrder(t *testing.T) {
	p := openPool(t, providers.Config{})
	o := newOutbox(t, p, Outbox{})
	l := listenOn(t, p, Options{})
	f := follow(t, o, p, l, "a", Position{})
	for _, end := range []string{"commit", "rollback"} {
		t.Run(end, func(t *testing.T) {
			first := begin(t, p)
			low, err := o.Publish(t.Context(), first, "a", "low")
			if err != nil {
				t.Fatal(err)
			}
			high, err := o.Publish(t.Context(), p, "a", "high")
			if err != nil {
				t.Fatal(err)
			}
			if low >= high {
				t.Fatalf("ids %d and %d", low, high)
			}
			page, _, unsettled, err := o.page(t.Context(), p, "a", Position{})
			if err != nil || !unsettled || len(f.records) > 0 {
				t.Errorf("delivered %d of %d, unsettled %v: %v", len(f.records), len(page), unsettled, err)
			}
			if end == "commit" {
				commit(t, first)
				f.want(t, "low")
			} else if err := first.Rollback(t.Context()); err != nil { // of which no notification tells
				t.Fatal(err)
			}
			if r := f.want(t, "high"); r.ID != high {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestOutbox(t *testing.T) {
	p := openPool(t, providers.Config{})
	mustExec(t, p, `create schema "My Schema"`)
	o := newOutbox(t, p, Outbox{Table: pgx.Identifier{"My Schema", `Out"box`}, PageSize: 2})
	l := listenOn(t, p, Options{})
	plain := subscribe(t, l, "a")

	// In the caller's transaction, or not at all; however long.
	tx := begin(t, p)
	if _, err := o.Publish(t.Context(), tx, "a", "never"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("é", 100_000)
	tx = begin(t, p)
	for _, payload := range []string{"1", long, "", "4", "5"} {
		if _, err := o.Publish(t.Context(), tx, "a", payload); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, tx)
	wantMessage(t, plain, "") // one for all of them
	publish(t, o, p, "b", "another channel's")

	f := follow(t, o, p, l, "a", Position{})
	for _, payload := range []string{"1", long, ""} {
		f.want(t, payload)
	}
	four := f.want(t, "4")
	f.want(t, "5")
	if four.Channel != "a" || time.Since(four.Created) > time.Hour || four.XID == 0 {
		t.Errorf("got %+v", four)
	}
	// From where it was, and from now on.
	follow(t, o, p, l, "a", four.Position).want(t, "5")
	end, err := o.End(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.PublishJSON(t.Context(), p, "a", map[string]int{"id": 6}); err != nil {
		t.Fatal(err)
	}
	late := follow(t, o, p, l, "a", end)
	late.want(t, `{"id":6}`)
	f.want(t, `{"id":6}`)

	if n, err := o.Purge(t.Context(), p, time.Hour); err != nil || n != 0 {
		t.Errorf("purged %d: %v", n, err)
	}
	mustExec(t, p, `update "My Schema"."Out""box" set created_at = created_at - interval '2 hours' where payload = '4'`)
	if n, err := o.Purge(t.Context(), p, time.Hour); err != nil || n != 1 {
		t.Errorf("purged %d: %v", n, err)
	}
}

// What no notification told of is found all the same.
func TestOutboxIsPolled(t *testing.T) {
	p := openPool(t, providers.Config{})
	o := newOutbox(t, p, Outbox{PollInterval: 10 * time.Millisecond})
	l := listenOn(t, p, Options{})
	f := follow(t, o, p, l, "a", Position{})
	for _, payload := range []string{"1", "2"} {
		mustExec(t, p, `insert into pgkeel_outbox (channel, payload) values ('a', $1)`, payload)
		f.want(t, payload)
	}
}

// Of services that start at the same time each makes the table, or finds it.
func TestOutboxIsCreatedByManyAtOnce(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 8}})
	for n := range 10 {
		o := Outbox{Table: pgx.Identifier{fmt.Sprintf("outbox %d", n)}}
		var all errgroup.Group
		for range 8 {
			all.Go(func() error { return o.Create(t.Context(), p) })
		}
		if err := all.Wait(); err != nil {
			t.Error(err)
		}
		publish(t, o, p, "a", "1")
	}
}
