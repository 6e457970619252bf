package pgx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// The context ends while a statement runs, or while nothing does.
func TestBatchContextEnds(t *testing.T) {
	for _, group := range groupings {
		for _, between := range []bool{false, true} {
			for _, where := range []string{"pool", "tx"} {
				t.Run(fmt.Sprintf("groups of %d, between %v, %s", group, between, where), func(t *testing.T) {
					p := balanced(t, providers.Config{})
					mustExec(t, p, batchTable)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					all := insertsOf(0, 1, 2, 3, 4)
					if between {
						all[1].Exec(func(pgconn.CommandTag) error { cancel(); return nil })
					} else {
						all[1] = queued("select pg_sleep(10)")
						time.AfterFunc(50*time.Millisecond, cancel)
					}
					call := callOf(group, all...)
					call.MaxStatements = 2
					var err error
					if where == "pool" {
						err = p.RunBatch(ctx, call)
					} else {
						tx := begin(t, p, providers.TxOptions{})
						err = tx.RunBatch(ctx, call)
						mustExec(t, tx, "select 1") // it goes on
						mustCommit(t, tx)
					}
					var limit *providers.TimeoutError
					if !errors.Is(err, context.Canceled) || !errors.As(err, &limit) {
						t.Errorf("%s: %v", statesOf(call), err)
					}
					if got := statesOf(call); !strings.HasSuffix(got, "n") && len(got) == 5 {
						t.Errorf("%s", got)
					}
					agree(t, "ended", call, numbersIn(t, p))
				})
			}
		}
	}
}

// All is done when the context ends, but for the commit.
func TestBatchContextEndsBeforeTheCommit(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, batchTable)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all := insertsOf(0, 1)
	all[1].Exec(func(pgconn.CommandTag) error { cancel(); return nil })
	call := callOf(0, all...)
	err := p.RunBatch(ctx, call)
	var item *providers.BatchError
	if !errors.As(err, &item) || item.Operation != providers.BatchContext || !errors.Is(err, context.Canceled) || statesOf(call) != "rr" {
		t.Errorf("%s %v", statesOf(call), err)
	}
	if got := numbersIn(t, p); len(got) != 0 || p.Stats().Connects != 1 {
		t.Errorf("%v", got)
	}
}

// All is done when the context ends, and nothing is left to be said.
func TestBatchContextEndsBehindTheLast(t *testing.T) {
	p := balanced(t, providers.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last := queued("select 1")
	last.Exec(func(pgconn.CommandTag) error { cancel(); return nil })
	call := callOf(1, last)
	if err := p.RunBatch(ctx, call); err != nil || statesOf(call) != "o" {
		t.Errorf("%s %v", statesOf(call), err)
	}
}

// The connection is cut between two windows: what is sent then is known not to
// have arrived.
func TestBatchConnectionCutInBetween(t *testing.T) {
	for group, want := range map[int]string{0: "rrnn", 1: "uunn", 2: "uunn"} {
		for _, callbacks := range []bool{false, true} {
			p := balanced(t, providers.Config{})
			mustExec(t, p, batchTable)
			all := insertsOf(0, 1, 2, 3)
			if callbacks {
				withCallbacks(all)
			}
			call := callOf(group, all...)
			call.MaxStatements = 2
			next, n := call.Next, 0
			call.Next = func() (*pgx.QueuedQuery, error) {
				if n++; n == 4 { // the third was looked at ahead of time
					for _, s := range p.allSessions() {
						s.cut()
					}
				}
				return next()
			}
			err := p.RunBatch(t.Context(), call)
			var item *providers.BatchError
			if !errors.As(err, &item) || item.Operation != providers.BatchConnection {
				t.Errorf("groups of %d: %v", group, err)
			}
			agree(t, "cut", call, numbersIn(t, p))
			if got := statesOf(call); callbacks && group > 0 && got != want {
				t.Errorf("groups of %d: %s instead of %s: %v", group, got, want, err)
			}
		}
	}
}

// The connection is cut while statements are described.
func TestBatchConnectionCutWhileDescribing(t *testing.T) {
	dsn := pgtest.NewDB(t)
	w, address := newWire(t, dsn)
	p := balanced(t, providers.Config{DSN: address})
	mustExec(t, p, batchTable)
	for _, group := range groupings {
		for at := range 12 {
			mustExec(t, p, "truncate t")
			all := append(insertsOf(0), queued("select 1"), queued("insert into nowhere values (1)"), queued("select 2"))
			call := callOf(group, all...)
			loseAt(w, at, cutBefore, func() error { return p.RunBatch(t.Context(), call) })
			if call.Report.Err() == nil || len(call.Report.States) != 4 {
				t.Errorf("%s", statesOf(call))
			}
			agree(t, "cut", call, numbersIn(t, p))
		}
	}
}
