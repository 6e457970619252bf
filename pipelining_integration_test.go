package pgkeel_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
)

// TestWithPipelining has many callers ask at once in every way there is, on few
// connections.
func TestWithPipelining(t *testing.T) {
	for name, extra := range map[string][]pgkeel.Option{
		"alone": nil, "with a layer": {pgkeel.WithDeadlinePropagation()},
	} {
		t.Run(name, func(t *testing.T) {
			db := openDB(t, append(extra,
				pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 2}),
				pgkeel.WithPipelining(pgkeel.Pipelining{Connections: 1, ReadConnections: 1, SlowAfter: time.Hour}))...)
			mustExec(t, db, `create table t (id int primary key, name text)`)
			eventually(t, "the shared connections are there", func() bool {
				mustExec(t, db, `select 1`)
				value[int](t, db.Reader(), `select 1`)
				return db.Stats().Pipeline.Connections == 2
			})
			before := db.Stats().Pipeline.Statements
			var callers sync.WaitGroup
			for i := range 20 {
				callers.Go(func() { askEveryWay(t, db, i) })
			}
			callers.Wait()
			s := db.Stats().Pipeline
			if s.Statements-before < 50 || s.Connections > 2 {
				t.Errorf("what was pipelined: %+v", s)
			}
			if n, err := db.QueryCount(t.Context(), `select count(*) from t`); n != 20 || err != nil {
				t.Errorf("%d rows, %v", n, err)
			}
		})
	}
}

// askEveryWay uses every method of the handle that may be pipelined.
func askEveryWay(t *testing.T, db *pgkeel.DB, id int) {
	type row struct {
		ID   int
		Name string
	}
	ctx := t.Context()
	want := row{id, "n"}
	if _, err := db.Exec(ctx, `insert into t values ($1, $2)`, id, "n"); err != nil {
		t.Error(err)
	}
	reader := db.Reader()
	for _, q := range []pgkeel.Querier{db, reader} {
		const sql = `select id, name from t where id = $1`
		if got, err := pgkeel.One[row](ctx, q, sql, id); got != want || err != nil {
			t.Errorf("One: %v, %v", got, err)
		}
		if got, err := pgkeel.All[row](ctx, q, sql, id); len(got) != 1 || got[0] != want || err != nil {
			t.Errorf("All: %v, %v", got, err)
		}
		for got, err := range pgkeel.Each[row](ctx, q, sql, id) {
			if got != want || err != nil {
				t.Errorf("Each: %v, %v", got, err)
			}
		}
		if _, err := pgkeel.One[row](ctx, q, sql, -1); !errors.Is(err, pgx.ErrNoRows) {
			t.Errorf("One of none: %v", err)
		}
	}
	var got row
	if err := reader.QueryOne(ctx, &got, `select id, name from t where id = $1`, id); got != want || err != nil {
		t.Errorf("QueryOne: %v, %v", got, err)
	}
	if err := reader.QueryOne(ctx, &got, `select * from generate_series(1, 2)`); err == nil {
		t.Error("QueryOne of two rows")
	}
	if n, err := reader.QueryCount(ctx, `select count(*) from t where id = $1`, id); n != 1 || err != nil {
		t.Errorf("QueryCount: %d, %v", n, err)
	}
}

func TestReaderIsHeldToReading(t *testing.T) {
	db := openDB(t)
	mustExec(t, db, `create table t (n int)`)
	reader := db.Reader()
	const write = `insert into t values (1) returning n`
	_, execErr := reader.Exec(t.Context(), write)
	rows, queryErr := reader.Query(t.Context(), write)
	if queryErr == nil {
		rows.Close()
		queryErr = rows.Err()
	}
	rowErr := reader.QueryRow(t.Context(), write).Scan(new(int))
	_, ctxErr := db.Exec(pgkeel.WithReadOnly(t.Context()), write)
	for what, err := range map[string]error{"Exec": execErr, "Query": queryErr, "QueryRow": rowErr, "WithReadOnly": ctxErr} {
		var pg *pgkeel.PGError
		if !errors.As(err, &pg) || !pg.IsReadOnly() || pgkeel.OutcomeOf(err) != pgkeel.OutcomeRolledBack {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n, err := db.QueryCount(t.Context(), `select count(*) from t`); n != 0 || err != nil {
		t.Errorf("%d rows were written, %v", n, err)
	}
}

func TestWithPipelinedChoosesForACall(t *testing.T) {
	db := openDB(t, pgkeel.WithPipelining(pgkeel.Pipelining{Traffic: pgkeel.PipelineOnRequest, SlowAfter: time.Hour}))
	pipelined := func(yes bool) func() bool {
		return func() bool {
			before := db.Stats().Pipeline.Statements
			if _, err := db.Exec(pgkeel.WithPipelined(t.Context(), yes), `select 1`); err != nil {
				t.Fatal(err)
			}
			return db.Stats().Pipeline.Statements > before
		}
	}
	eventually(t, "a call that asks for it is pipelined", pipelined(true))
	if pipelined(false)() {
		t.Error("a call that declined was pipelined")
	}
	if _, err := pgkeel.Open(t.Context(), "", pgkeel.WithPipelining(pgkeel.Pipelining{MaxGroup: -1, ReadConnections: 5000})); err == nil {
		t.Error("limits out of range are taken")
	}
	if _, err := pgkeel.Open(t.Context(), "", pgkeel.WithProfile(pgkeel.ProfilePgBouncer), pgkeel.WithPipelining(pgkeel.Pipelining{})); err == nil {
		t.Error("pipelining behind PgBouncer is taken")
	}
}

// What a call chain writes beside its own transaction cannot end up behind somebody
// who waits for that.
func TestPipelinedBesideItsOwnTransaction(t *testing.T) {
	db := openDB(t,
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 10}),
		pgkeel.WithPipelining(pgkeel.Pipelining{Connections: 1, ReadConnections: 1, SlowAfter: time.Hour}))
	mustExec(t, db, `create table t (n int); create table log (n int); insert into t values (1)`)
	const update, note = `update t set n = n + $1`, `insert into log values ($1)`
	pipelined := func(do func()) bool {
		before := db.Stats().Pipeline.Statements
		do()
		return db.Stats().Pipeline.Statements > before
	}
	eventually(t, "writes and reads are pipelined", func() bool {
		return pipelined(func() { mustExec(t, db, update, 1); mustExec(t, db, note, 1) }) &&
			pipelined(func() { value[int](t, db.Reader(), `select 1`) })
	})
	var others sync.WaitGroup
	err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
		if pipelined(func() { mustExecIn(ctx, t, db, note, 2) }) {
			t.Error("a write beside a transaction was pipelined")
		}
		eventually(t, "a read beside a transaction is pipelined", func() bool {
			return pipelined(func() { _, _ = db.Reader().Exec(ctx, `select 1`) })
		})
		if _, err := tx.Exec(ctx, update, 1); err != nil {
			return err
		}
		for range 5 {
			others.Go(func() { mustExec(t, db, update, 1) }) // waits for the transaction
			mustExecIn(ctx, t, db, note, 3)
		}
		return nil
	})
	others.Wait()
	if err != nil {
		t.Error(err)
	}
	if n := value[int](t, db, `select count(*)::int from log where n = 3`); n != 5 {
		t.Errorf("%d rows", n)
	}
}

func mustExecIn(ctx context.Context, t *testing.T, db *pgkeel.DB, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := db.Exec(ctx, sql, args...); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}
