package pgkeel_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/batch"
	"github.com/pgkeel/pgkeel/outcome"
	"github.com/pgkeel/pgkeel/pgtest"
)

// A commit that stops waiting for its synchronous standby is reported as a success by
// the server. Here it is unknown, since a failover may lose it, and with ExactlyOnce it
// is found out.
func TestCommitThatIsNotReplicated(t *testing.T) {
	nodes := pgtest.New(t, pgtest.Options{Standbys: 1, SynchronousStandbys: 1})
	db, other := openOn(t, nodes.Primary().DSN(""), one()), openOn(t, nodes.Primary().DSN(""), one())
	mustExec(t, db, "create table t (n int); "+outcome.DDL)
	standby := nodes.Standbys()[0]
	cancelWait := func(do string) {
		for {
			n, err := other.QueryCount(t.Context(), "select count(*) from (select "+do+"(pid) from pg_stat_activity where wait_event = 'SyncRep') as c")
			if err != nil {
				t.Error(err)
			}
			if n > 0 || err != nil {
				return
			}
		}
	}
	// The deadline is over once a commit waits, however long it took to get there.
	soonOver := func() (context.Context, context.CancelFunc) {
		ctx := &overdue{Context: t.Context(), over: make(chan struct{})}
		go func() {
			cancelWait("abs")
			close(ctx.over)
		}()
		return ctx, func() {}
	}
	session := func() (context.Context, context.CancelFunc) {
		return pgkeel.WithSession(t.Context(), pgkeel.NewSession()), func() {}
	}
	plain := func() (context.Context, context.CancelFunc) { return t.Context(), func() {} }
	for name, tc := range map[string]struct {
		ctx   func() (context.Context, context.CancelFunc)
		admin string
		once  bool
		want  pgkeel.Outcome
		cause error
	}{
		"a deadline":                 {ctx: soonOver, want: pgkeel.OutcomeUnknown, cause: context.DeadlineExceeded},
		"an administrator":           {ctx: plain, admin: "pg_cancel_backend", want: pgkeel.OutcomeUnknown},
		"an administrator, session":  {ctx: session, admin: "pg_cancel_backend", want: pgkeel.OutcomeUnknown},
		"a deadline, once":           {ctx: soonOver, once: true, want: pgkeel.OutcomeCommitted},
		"an administrator, once":     {ctx: plain, admin: "pg_cancel_backend", once: true, want: pgkeel.OutcomeCommitted},
		"an administrator ended it":  {ctx: plain, admin: "pg_terminate_backend", want: pgkeel.OutcomeUnknown},
		"and with once, he does too": {ctx: plain, admin: "pg_terminate_backend", once: true, want: pgkeel.OutcomeCommitted},
	} {
		t.Run(name, func(t *testing.T) {
			if err := standby.Pause(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := tc.ctx()
			defer cancel()
			told := make(chan error, 1)
			go func() {
				told <- db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error { return insert(ctx, tx, 1) }, pgkeel.TxOptions{ExactlyOnce: tc.once})
			}()
			if tc.admin != "" {
				cancelWait(tc.admin)
			} else {
				<-ctx.Done()
			}
			if tc.once {
				cancelWait("abs") // the resolver waits for the standby as well
				if err := standby.Resume(); err != nil {
					t.Fatal(err)
				}
			}
			err := <-told
			if !tc.once {
				if err := standby.Resume(); err != nil {
					t.Fatal(err)
				}
			}
			mustBe(t, err, tc.want)
			if tc.want == pgkeel.OutcomeUnknown && tc.admin != "pg_terminate_backend" &&
				(!errors.Is(err, pgkeel.ErrUnreplicated) || tc.cause != nil && !errors.Is(err, tc.cause)) {
				t.Error(err)
			}
			// What the connection noted is of that commit only.
			mustTx(t, db)
		})
	}
	// A statement that commits by itself is told the same.
	const sql = "insert into t values (2) returning n"
	limited := openOn(t, nodes.Primary().DSN(""), one(), pgkeel.WithDeadlinePropagation())
	for name, do := range map[string]func(ctx context.Context) error{
		"exec": func(ctx context.Context) error {
			_, err := db.Exec(ctx, sql)
			return err
		},
		"query":                func(ctx context.Context) error { return db.QueryRow(ctx, sql).Scan(new(int)) },
		"exec with its limit":  func(ctx context.Context) error { _, err := limited.Exec(ctx, sql); return err },
		"query with its limit": func(ctx context.Context) error { return limited.QueryRow(ctx, sql).Scan(new(int)) },
		"exec in a session": func(ctx context.Context) error {
			_, err := db.Exec(pgkeel.WithSession(ctx, pgkeel.NewSession()), sql)
			return err
		},
		"batch": func(ctx context.Context) error {
			b := &pgx.Batch{}
			b.Queue(sql)
			return db.SendBatch(ctx, b).Close()
		},
		"batch, atomic":   batchOf(db, sql, batch.Options{}),
		"batch, isolated": batchOf(db, sql, batch.Options{Mode: batch.Isolated}),
		"batch, in a transaction of its own": batchOf(db, sql, batch.Options{
			Tx: pgkeel.TxOptions{Isolation: pgkeel.Serializable},
		}),
	} {
		if err := standby.Pause(); err != nil {
			t.Fatal(err)
		}
		over := soonOver
		if strings.HasSuffix(name, "with its limit") { // which the server has to know before
			over = func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), 2*time.Second) }
		}
		ctx, cancel := over()
		err := do(ctx)
		cancel()
		if err := standby.Resume(); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(err, pgkeel.ErrUnreplicated) || !errors.Is(err, context.DeadlineExceeded) || pgkeel.OutcomeOf(err) != pgkeel.OutcomeUnknown {
			t.Errorf("%s: %v, %s", name, err, pgkeel.OutcomeOf(err))
		}
		mustTx(t, db) // what the connection noted is of that statement only
	}
	// One that shares its connection is told by what the server says behind it.
	shared := openOn(t, nodes.Primary().DSN(""), one(), pgkeel.WithPipelining(pgkeel.Pipelining{Connections: 1, SlowAfter: time.Hour}))
	for name, do := range map[string]func(ctx context.Context) error{
		"exec":  func(ctx context.Context) error { _, err := shared.Exec(ctx, sql); return err },
		"query": func(ctx context.Context) error { return shared.QueryRow(ctx, sql).Scan(new(int)) },
	} {
		for shared.Stats().Pipeline.Statements == 0 { // until its connection is there
			if err := do(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := standby.Pause(); err != nil {
			t.Fatal(err)
		}
		before, told := shared.Stats().Pipeline.Statements, make(chan error, 1)
		go func() { told <- do(t.Context()) }()
		cancelWait("pg_cancel_backend")
		err := <-told
		if err := standby.Resume(); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(err, pgkeel.ErrUnreplicated) || pgkeel.OutcomeOf(err) != pgkeel.OutcomeUnknown {
			t.Errorf("pipelined %s: %v, %s", name, err, pgkeel.OutcomeOf(err))
		}
		if shared.Stats().Pipeline.Statements == before {
			t.Errorf("%s was not pipelined", name)
		}
		if err := do(t.Context()); err != nil {
			t.Errorf("%s, with what was said before: %v", name, err)
		}
	}
}

// overdue is a context whose deadline is over when the test says so.
type overdue struct {
	context.Context //nolint:containedctx // it is one
	over            chan struct{}
}

func (c *overdue) Done() <-chan struct{} { return c.over }

func (c *overdue) Err() error {
	select {
	case <-c.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// batchOf runs a statement as a batch, whose report must know no more than its error.
func batchOf(db *pgkeel.DB, sql string, options batch.Options) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		b := &pgx.Batch{}
		b.Queue(sql)
		report, err := batch.Run(ctx, db, b, options)
		if err != nil && (report.Count(batch.Unknown) != 1 || report.RowsAffected != 0) {
			return fmt.Errorf("reported as %v, %d rows", report.States, report.RowsAffected)
		}
		return err
	}
}

func mustTx(t *testing.T, db *pgkeel.DB) {
	t.Helper()
	if err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error { return insert(ctx, tx, 1) }); err != nil {
		t.Error(err)
	}
}
