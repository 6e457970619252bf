package pgx_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

func TestTrap17TransactionsBehindPgBouncer(t *testing.T) {
	pool := newPooler(t, 2).open(t, behind(4))
	run(t, pool, `create table written (who text primary key)`)
	tx, err := pool.Begin(t.Context(), providers.TxOptions{Isolation: providers.Serializable})
	if err != nil {
		t.Fatal(err)
	}
	server := scalar[int](t, tx, `select pg_backend_pid()`)
	if got := scalar[string](t, tx, `select current_setting('transaction_isolation')`); got != "serializable" {
		t.Errorf("isolation %s", got)
	}
	run(t, tx, `insert into written values ($1)`, "kept")
	for _, name := range []string{"", `a "name"; rollback`} {
		sp, err := tx.Savepoint(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		run(t, sp, `insert into written values ($1)`, "undone")
		if _, err := sp.Exec(t.Context(), `insert into written values ($1)`, "kept"); codeOf(t, err) != "23505" {
			t.Errorf("a duplicate: %v", err)
		}
		if err := sp.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if other := scalar[int](t, pool, `select count(*) from written`); other != 0 {
		t.Errorf("another client sees %d uncommitted rows", other)
	}
	if got := scalar[int](t, tx, `select pg_backend_pid()`); got != server {
		t.Error("the transaction changed its session")
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := scalar[string](t, pool, `select string_agg(who, ',') from written`); got != "kept" {
		t.Errorf("got %q", got)
	}
	whole(t, pool)
}

func TestTrap17BatchAndCopyBehindPgBouncer(t *testing.T) {
	pool := newPooler(t, 1).open(t, behind(3))
	run(t, pool, `create table loaded (id int primary key, name text, tags text[], at timestamptz, doc jsonb)`)
	at := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	rows := make([][]any, 500)
	for i := range rows {
		rows[i] = []any{i, fmt.Sprint("name ", i), []string{"a", fmt.Sprint(i)}, at, map[string]any{"i": i}}
	}
	columns := []string{"id", "name", "tags", "at", "doc"}
	for range 2 { // the second time on a client, or a session, that has seen it
		n, err := pool.CopyFrom(t.Context(), pgx.Identifier{"loaded"}, columns, pgx.CopyFromRows(rows))
		if err != nil || n != 500 {
			t.Fatalf("COPY: %d, %v", n, err)
		}
		if got := scalar[int](t, pool, `select count(*) from loaded where doc ->> 'i' = tags[2] and at = $1`, at); got != 500 {
			t.Errorf("%d rows are as they were sent", got)
		}
		if _, err := pool.CopyFrom(t.Context(), pgx.Identifier{"loaded"}, columns, pgx.CopyFromRows(rows[:1])); codeOf(t, err) != "23505" {
			t.Errorf("a duplicate: %v", err)
		}
		run(t, pool, `truncate loaded`)
	}
	b := &pgx.Batch{}
	total := 0
	for i := range 100 {
		b.Queue(`insert into loaded (id, name) values ($1, $2)`, i, fmt.Sprint(i))
		b.Queue(`select count(*)::int from loaded where id <= $1`, i).QueryRow(func(row pgx.Row) error {
			var n int
			err := row.Scan(&n)
			total += n
			return err
		})
	}
	if err := pool.SendBatch(t.Context(), b).Close(); err != nil || total != 5050 {
		t.Errorf("batch: %d, %v", total, err)
	}
	failing := &pgx.Batch{}
	failing.Queue(`insert into loaded (id) values ($1)`, 1000)
	failing.Queue(`insert into loaded (id) values ($1)`, 1)
	if err := pool.SendBatch(t.Context(), failing).Close(); codeOf(t, err) != "23505" {
		t.Errorf("a duplicate: %v", err)
	}
	if scalar[bool](t, pool, `select exists (select from loaded where id = 1000)`) {
		t.Error("half a batch was kept")
	}
	whole(t, pool)
}

// TestTrap17CancelHitsNobodyElse: one caller's context ends while others use
// the same few sessions.
func TestTrap17CancelHitsNobodyElse(t *testing.T) {
	p := newPooler(t, 2)
	pool, admin := p.open(t, behind(6)), p.admin(t)
	const sleeping = `select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active' and datname = current_database()`
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		ended, stop, done := make(chan error, 1), make(chan struct{}), make(chan error, 4)
		go func() { _, err := pool.Exec(ctx, `select pg_sleep(600)`); ended <- err }()
		until(t, "the statement to run", func() bool { return scalar[int](t, admin, sleeping+` and wait_event = 'PgSleep'`) == 1 })
		for range cap(done) {
			go func() {
				for {
					if _, err := pool.Exec(t.Context(), `select pg_sleep(0.005)`); err != nil {
						done <- err
						return
					}
					select {
					case <-stop:
						done <- nil
						return
					default:
					}
				}
			}()
		}
		cancel()
		err := <-ended
		var timeout *providers.TimeoutError
		if !errors.Is(err, context.Canceled) || !errors.As(err, &timeout) || timeout.Limit != "context cancelled" || timeout.Timeout() {
			t.Errorf("the caller who gave up: %v", err)
		}
		if got := providers.OutcomeOf(err); got != providers.OutcomeUnknown {
			t.Errorf("nobody can know what became of the statement, but the error says %s", got)
		}
		until(t, "the statement to end on the server", func() bool { return scalar[int](t, admin, sleeping) == 0 })
		close(stop)
		for range cap(done) {
			if err := <-done; err != nil {
				t.Errorf("another caller: %v", err)
			}
		}
	}
	whole(t, pool)
}

// TestTrap17DeadlineWhileThePoolerHasNoSession: whoever gives up while the pooler
// has no session to give disturbs nobody who has one.
func TestTrap17DeadlineWhileThePoolerHasNoSession(t *testing.T) {
	pool := newPooler(t, 1).open(t, behind(6))
	run(t, pool, `create table undisturbed (n int)`)
	tx, err := pool.Begin(t.Context(), providers.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	run(t, tx, `insert into undisturbed values ($1)`, 1)
	for range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		_, err := pool.Exec(ctx, `insert into undisturbed values ($1)`, 2)
		cancel()
		var timeout *providers.TimeoutError
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timeout) || timeout.Limit != "context deadline" {
			t.Fatalf("got %v", err)
		}
		// The pooler has the statement, and may yet run it.
		if got := providers.OutcomeOf(err); got != providers.OutcomeUnknown {
			t.Errorf("outcome %s", got)
		}
		run(t, tx, `insert into undisturbed values ($1)`, 1)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := scalar[int](t, pool, `select count(*) from undisturbed where n = 1`); got != 5 {
		t.Errorf("%d rows", got)
	}
	whole(t, pool)
}
