package pgkeel_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
)

// bank is a service as one would write it: money moves between accounts, and
// never comes into being or gets lost.
type bank struct{ db *pgkeel.DB }

var errTooPoor = errors.New("too poor")

func (b bank) move(ctx context.Context, from, to, amount int) error {
	return b.db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		balance, err := pgkeel.One[int](ctx, tx, "select balance from accounts where id = $1", from)
		if err != nil {
			return err
		}
		if balance < amount {
			return errTooPoor
		}
		if _, err := tx.Exec(ctx, "update accounts set balance = balance - $1 where id = $2", amount, from); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "update accounts set balance = balance + $1 where id = $2", amount, to)
		return err
	}, pgkeel.TxOptions{Isolation: pgkeel.Serializable, MaxAttempts: 50, Timeout: 10 * time.Second})
}

// A service works on while connections are killed under it and transactions
// conflict: the sum of all accounts stays, nothing committed is lost, and
// everything borrowed comes back.
func TestServiceUnderFire(t *testing.T) {
	const accounts, workers, moves, each = 5, 6, 30, 100
	var events atomic.Int64
	dsn := pgtest.NewDB(t)
	db := openDSN(t, dsn,
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 4, MinSize: 2}),
		pgkeel.WithDeadlinePropagation(),
		pgkeel.WithHooks(pgkeel.Hook{Name: "count", After: func(context.Context, *pgkeel.HookInfo) { events.Add(1) }}),
	)
	mustExec(t, db, "create table accounts (id int primary key, balance int not null check (balance >= 0))")
	rows := make([][]any, accounts)
	for i := range rows {
		rows[i] = []any{i, each}
	}
	if n, err := db.CopyFrom(t.Context(), pgx.Identifier{"accounts"}, []string{"id", "balance"}, pgx.CopyFromRows(rows)); n != accounts || err != nil {
		t.Fatal(n, err)
	}

	var outcomes [4]atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range moves {
				err := bank{db}.move(t.Context(), rand.IntN(accounts), rand.IntN(accounts), 1+rand.IntN(20))
				outcomes[pgkeel.OutcomeOf(err)].Add(1)
				if total(t, db) != accounts*each {
					t.Error("money came into being or was lost")
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	killer := openDSN(t, dsn, one())
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for killing := true; killing; {
		select {
		case <-done:
			killing = false
		case <-tick.C:
			mustExec(t, killer, `select pg_terminate_backend(pid) from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid() order by random() limit 1`)
		}
	}
	if outcomes[pgkeel.OutcomeCommitted].Load() == 0 || events.Load() == 0 {
		t.Errorf("nothing was done: %d events", events.Load())
	}
	eventually(t, "MinSize is restored", func() bool { s := db.Stats(); return s.InUse == 0 && s.Open >= 2 })
	if got := total(t, db); got != accounts*each {
		t.Errorf("%d in the end", got)
	}
}

// total sums up all accounts, again when the connection is killed meanwhile.
func total(t *testing.T, db *pgkeel.DB) (sum int64) {
	t.Helper()
	eventually(t, "the sum can be read", func() bool {
		var err error
		sum, err = db.QueryCount(t.Context(), "select sum(balance) from accounts")
		return err == nil
	})
	return sum
}
