package pgkeel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// patience is how long a condition may take on a slow machine.
const patience = 20 * time.Second

// openDB opens a handle on a database of its own. When the test is over every
// connection must be back.
func openDB(t testing.TB, options ...pgkeel.Option) *pgkeel.DB {
	t.Helper()
	return openDSN(t, pgtest.NewDB(t), options...)
}

func openDSN(t testing.TB, dsn string, options ...pgkeel.Option) *pgkeel.DB {
	t.Helper()
	db, err := pgkeel.Open(t.Context(), dsn, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		eventually(t, "every connection is back", func() bool { return db.Stats().InUse == 0 })
		closeDB(t, db)
	})
	return db
}

func closeDB(t testing.TB, db *pgkeel.DB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := db.Close(ctx); err != nil {
		t.Error(err)
	}
}

// one keeps the pool to a single connection, so that what a test leaves in it is
// seen by what comes next.
func one() pgkeel.Option { return pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 1, InitialSize: 1}) }

var registrations atomic.Int64

// register makes a provider known under a name that no other test run has.
func register(t testing.TB, p providers.Provider) (name string) {
	t.Helper()
	name = fmt.Sprintf("%s %d", t.Name(), registrations.Add(1))
	if err := providers.Register(name, p); err != nil {
		t.Fatal(err)
	}
	return name
}

// statements is what a DB, a Conn and a Tx have in common.
type statements interface {
	pgkeel.Querier
	QueryOne(ctx context.Context, dst any, sql string, args ...any) error
	QueryAll(ctx context.Context, dst any, sql string, args ...any) error
	QueryCount(ctx context.Context, sql string, args ...any) (int64, error)
}

var (
	_ statements = (*pgkeel.DB)(nil)
	_ statements = (*pgkeel.Conn)(nil)
	_ statements = pgkeel.Tx{}
)

// onEach runs a test on a DB, a Conn and a Tx.
func onEach(t *testing.T, db *pgkeel.DB, test func(t *testing.T, q statements)) {
	t.Helper()
	t.Run("db", func(t *testing.T) { test(t, db) })
	t.Run("conn", func(t *testing.T) {
		conn := acquire(t, db)
		defer conn.Release()
		test(t, conn)
	})
	t.Run("tx", func(t *testing.T) {
		tx := begin(t, db)
		defer func() { _ = tx.Rollback(t.Context()) }()
		test(t, tx)
	})
}

func acquire(t testing.TB, db *pgkeel.DB) *pgkeel.Conn {
	t.Helper()
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func begin(t testing.TB, db *pgkeel.DB, options ...pgkeel.TxOptions) pgkeel.Tx {
	t.Helper()
	tx, err := db.Begin(t.Context(), options...)
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// value reads one value.
func value[T any](t testing.TB, q pgkeel.Querier, sql string, args ...any) T {
	t.Helper()
	v, err := pgkeel.One[T](t.Context(), q, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func mustExec(t testing.TB, q pgkeel.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// mustSay fails unless err is one of target's kind and its text has every part.
func mustSay(t testing.TB, err, target error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if target != nil && !errors.Is(err, target) {
		t.Errorf("not %v: %v", target, err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("it does not say %q: %v", part, err)
		}
	}
}

func mustBe(t testing.TB, err error, outcome pgkeel.Outcome) {
	t.Helper()
	if got := pgkeel.OutcomeOf(err); got != outcome {
		t.Errorf("outcome %s instead of %s: %v", got, outcome, err)
	}
}

// as finds an error of a type.
func as[E error](t testing.TB, err error) E {
	t.Helper()
	var found E
	if !errors.As(err, &found) {
		t.Fatalf("no %T: %v", found, err)
	}
	return found
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it never came true: %s", what)
		}
	}
}

// journal collects what is logged, or else noted.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) note(words ...string) { _, _ = j.Write([]byte(strings.Join(words, " ") + "\n")) }

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }
