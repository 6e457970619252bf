package pgkeel_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// loader is a DB, a Conn or a Tx.
type loader interface {
	statements
	CopyFromReader(ctx context.Context, r io.Reader, sql string) (pgconn.CommandTag, error)
	CopyToWriter(ctx context.Context, w io.Writer, sql string) (pgconn.CommandTag, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error)
}

func TestBatchAndCopy(t *testing.T) {
	onEach(t, openTable(t), func(t *testing.T, q statements) {
		l := q.(loader)
		mustExec(t, l, "truncate t")
		batch := &pgx.Batch{}
		batch.Queue("insert into t values ($1)", 1)
		batch.Queue("insert into t values ($1)", 2)
		if err := l.SendBatch(t.Context(), batch).Close(); err != nil {
			t.Fatal(err)
		}
		n, err := l.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{3}, {4}}))
		if n != 2 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		tag, err := l.CopyFromReader(t.Context(), strings.NewReader("5\n"), "copy t from stdin")
		if tag.RowsAffected() != 1 || err != nil {
			t.Errorf("%s, %v", tag, err)
		}
		mustHave(t, l, 1, 2, 3, 4, 5)
		var out strings.Builder
		if _, err := l.CopyToWriter(t.Context(), &out, "copy (select n from t where n > 3 order by n) to stdout"); out.String() != "4\n5\n" || err != nil {
			t.Errorf("%q, %v", &out, err)
		}

		err = l.SendBatch(t.Context(), nil).Close()
		mustSay(t, err, nil, "the batch is nil", "nothing was sent")
		mustBe(t, err, pgkeel.OutcomeNotSent)
		_, err = l.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, nil)
		mustSay(t, err, nil, "the source is nil", "nothing was sent")
		mustBe(t, err, pgkeel.OutcomeNotSent)
	})
}

func TestConn(t *testing.T) {
	db := openDB(t, one())
	conn := acquire(t, db)
	if err := conn.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	pid := value[int](t, conn, "select pg_backend_pid()")
	if value[int](t, conn, "select pg_backend_pid()") != pid {
		t.Error("another session")
	}
	mustExec(t, conn, "set my.mark = 'left'")
	conn.Release()
	conn.Release()
	_, err := conn.Exec(t.Context(), "select 1")
	mustSay(t, err, pgkeel.ErrReleased)
	if conn.Unwrap() != nil {
		t.Error("a released connection has one underneath")
	}
	err = db.AcquireFunc(t.Context(), func(ctx context.Context, conn *pgkeel.Conn) error {
		if mark := value[*string](t, conn, "select nullif(current_setting('my.mark', true), '')"); mark != nil {
			t.Errorf("the next borrower found %q", *mark)
		}
		return errMine
	})
	if err != errMine { //nolint:errorlint // as it is
		t.Error(err)
	}
	mustSay(t, db.AcquireFunc(t.Context(), nil), nil, "function is nil", "nothing was sent")
	mustSay(t, db.RunBatch(t.Context(), nil), nil, "call is nil", "nothing was sent")
	if n := db.Stats().InUse; n != 0 {
		t.Errorf("%d connections in use", n)
	}
	// Whoever saw the raw connection may go on using it, so nobody else does.
	conn = acquire(t, db)
	if conn.Unwrap().PgConn().PID() != uint32(pid) {
		t.Error("another session")
	}
	conn.Release()
	if value[int](t, db, "select pg_backend_pid()") == pid {
		t.Error("a connection that was unwrapped is used again")
	}
}

func TestSQL(t *testing.T) {
	db := openTable(t, pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 2}))
	std := db.SQL()
	if db.SQL() != std {
		t.Error("another one each time")
	}
	tx, err := std.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelSerializable})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), "insert into t values ($1)", 1); err != nil {
		t.Error(err)
	}
	if n := db.Stats().InUse; n != 1 {
		t.Errorf("%d connections in use", n)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	mustHave(t, db, 1)
	if s := std.Stats(); s.Idle != 0 {
		t.Errorf("it keeps connections of its own: %+v", s)
	}
	// Libraries like to close what they were given.
	for range 2 {
		if err := std.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	again := db.SQL()
	if err := again.PingContext(t.Context()); err != nil {
		t.Error(err)
	}
	closeDB(t, db)
	for _, std := range []*sql.DB{again, db.SQL()} {
		if std.PingContext(t.Context()) == nil {
			t.Error("it answers after the end")
		}
	}
	if last := db.SQL(); last != db.SQL() {
		t.Error("another one each time after the end")
	}
}

func TestUnwrap(t *testing.T) {
	db := openDB(t)
	pool := db.Unwrap()
	var n int
	if err := pool.QueryRow(t.Context(), "select 42").Scan(&n); err != nil || n != 42 {
		t.Errorf("%d, %v", n, err)
	}
	if db.Stats().Acquires != 1 {
		t.Error("the handle does not know of what the pool does")
	}
}

func TestResetReplacesConnections(t *testing.T) {
	db := openDB(t, one())
	pid := value[int](t, db, "select pg_backend_pid()")
	db.Reset()
	if value[int](t, db, "select pg_backend_pid()") == pid {
		t.Error("the same session")
	}
	if s := db.Stats(); s.Connects < 2 {
		t.Errorf("%+v", s)
	}
}

func TestClose(t *testing.T) {
	db, err := pgkeel.Open(t.Context(), pgtest.NewDB(t), one())
	if err != nil {
		t.Fatal(err)
	}
	conn := acquire(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = db.Close(ctx)
	mustSay(t, err, context.DeadlineExceeded, "acquired connection")
	if held := as[*pgkeel.CloseError](t, err); len(held.Holders) != 1 {
		t.Errorf("%+v", held)
	}
	if again := db.Close(t.Context()); again != err { //nolint:errorlint // the very same
		t.Errorf("the second time: %v", again)
	}
	_, err = db.Exec(t.Context(), "select 1")
	mustSay(t, err, pgkeel.ErrPoolClosed)
	mustBe(t, err, pgkeel.OutcomeNotSent)
	_, err = db.Acquire(t.Context())
	mustSay(t, err, pgkeel.ErrPoolClosed)
	mustSay(t, db.AcquireFunc(t.Context(), nil), pgkeel.ErrPoolClosed)
	_, err = conn.Exec(t.Context(), "select 1")
	mustSay(t, err, nil)
	conn.Release()

	idle := openDB(t)
	closeDB(t, idle)
	closeDB(t, idle)
}

func TestIDsOfTheContext(t *testing.T) {
	ctx := pgkeel.WithUserID(pgkeel.WithCorrelationID(pgkeel.WithTenantID(t.Context(), "acme"), "c-1"), "ana")
	for name, get := range map[string]func(context.Context) (string, bool){
		"acme": pgkeel.GetTenantID, "c-1": pgkeel.GetCorrelationID, "ana": pgkeel.GetUserID,
	} {
		if id, ok := get(ctx); id != name || !ok {
			t.Errorf("%q, %v", id, ok)
		}
		if id, ok := get(t.Context()); id != "" || ok {
			t.Errorf("%q of nobody", id)
		}
	}
	var seen []string
	db := openDB(t)
	if err := db.Hooks().Register(pgkeel.Hook{Name: "ids", Events: []pgkeel.HookEvent{pgkeel.EventExec}, After: func(_ context.Context, info *pgkeel.HookInfo) {
		seen = append(seen, info.TenantID, info.CorrelationID, info.UserID)
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(ctx, "select 1"); err != nil || len(seen) != 3 || seen[0] != "acme" || seen[1] != "c-1" || seen[2] != "ana" {
		t.Errorf("%v, %v", seen, err)
	}
	if !db.Hooks().Unregister("ids") {
		t.Error("it was not there")
	}
	if _, err := db.Exec(ctx, "select 1"); err != nil || len(seen) != 3 {
		t.Errorf("%v, %v", seen, err)
	}
}

// narrow is a provider that can do what every one must, and no more.
type narrow struct{}

// narrowPool hides what the pool inside can do besides, and so do its
// connections and transactions.
type narrowPool struct{ providers.Pool }

func (narrow) Open(ctx context.Context, config pgkeel.Config) (providers.Pool, error) {
	pool, err := providers.Open(ctx, "pgx", config)
	return narrowPool{pool}, err
}

func (p narrowPool) Acquire(ctx context.Context) (providers.Conn, error) {
	conn, err := p.Pool.Acquire(ctx)
	return struct{ providers.Conn }{conn}, err
}

func (p narrowPool) Begin(ctx context.Context, opts providers.TxOptions) (providers.Tx, error) {
	tx, err := p.Pool.Begin(ctx, opts)
	return struct{ providers.Tx }{tx}, err
}

// A provider need not copy, send batches or stand on pgx.
func TestNarrowProvider(t *testing.T) {
	db := openDB(t, pgkeel.WithProvider(register(t, narrow{})))
	if n := value[int](t, db, "select 7"); n != 7 {
		t.Error(n)
	}
	if db.SQL() != nil {
		t.Error("it stands on pgx")
	}
	onEach(t, db, func(t *testing.T, q statements) {
		l := q.(loader)
		if standsOnPgx(q) {
			t.Error("it stands on pgx")
		}
		batch := &pgx.Batch{}
		batch.Queue("select 1")
		_, copied := l.CopyFrom(t.Context(), pgx.Identifier{"t"}, nil, pgx.CopyFromRows(nil))
		_, read := l.CopyFromReader(t.Context(), strings.NewReader(""), "copy t from stdin")
		_, written := l.CopyToWriter(t.Context(), io.Discard, "copy t to stdout")
		for _, err := range []error{l.SendBatch(t.Context(), batch).Close(), copied, read, written} {
			mustSay(t, err, errors.ErrUnsupported, "by this provider", "nothing was sent")
			mustBe(t, err, pgkeel.OutcomeNotSent)
		}
	})
}

// standsOnPgx reports whether there is something of pgx underneath.
func standsOnPgx(q statements) bool {
	switch q := q.(type) {
	case *pgkeel.DB:
		return q.Unwrap() != nil
	case *pgkeel.Conn:
		return q.Unwrap() != nil
	case pgkeel.Tx:
		return q.Unwrap() != nil
	}
	return true
}
