package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgkeel/pgkeel"
)

// replica writes on the primary and reads on the standby, in a session that sees
// what it wrote, and tries to write through the reader.
func replica(ctx context.Context, e *environment) error {
	db, err := e.open(ctx, "with a replica", e.cluster.Primary(), appName+"-replica",
		pgkeel.WithReplicas(e.cluster.Standbys()[0].DSN("")),
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: smallSize}))
	if err != nil {
		return err
	}
	if err := readsItsWrites(ctx, e, db); err != nil {
		return err
	}
	if err := follows(ctx, e, db); err != nil {
		return err
	}
	_, err = db.Reader().Exec(ctx, `delete from cities`)
	e.out.line("a write through Reader():")
	e.out.quote("%v", err)
	var pg *pgkeel.PGError
	e.check(ctx, errors.As(err, &pg) && pg.IsReadOnly() && pgkeel.OutcomeOf(err) == pgkeel.OutcomeRolledBack,
		"it is refused, and the error says why (IsReadOnly)")
	return nil
}

// readsItsWrites writes and reads again at once, on whatever server that is.
func readsItsWrites(ctx context.Context, e *environment, db *pgkeel.DB) error {
	const rounds = 200
	ctx = pgkeel.WithSession(ctx, pgkeel.NewSession())
	if _, err := db.Exec(ctx, `create table letters (n int)`); err != nil {
		return fmt.Errorf("write on the primary: %w", err)
	}
	stale, onStandby := 0, 0
	begin := time.Now()
	for i := range rounds {
		if _, err := db.Exec(ctx, `insert into letters values ($1)`, i); err != nil {
			return fmt.Errorf("write on the primary: %w", err)
		}
		got, err := pgkeel.One[struct {
			Letters int
			Standby bool
		}](ctx, db.Reader(), `select count(*)::int as letters, pg_is_in_recovery() as standby from letters`)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if got.Letters != i+1 {
			stale++
		}
		if got.Standby {
			onStandby++
		}
	}
	e.check(ctx, stale == 0, "%d times a session wrote and read at once, %d of these on the standby: it always saw its write (%s each)",
		rounds, onStandby, short(time.Since(begin)/rounds))
	return nil
}

// follows compares what is on the primary with what is on the standby.
func follows(ctx context.Context, e *environment, db *pgkeel.DB) error {
	if err := e.cluster.WaitCaughtUp(ctx); err != nil {
		return fmt.Errorf("wait for the replica: %w", err)
	}
	const digest = `select pg_is_in_recovery() as standby, count(*) as rows, md5(string_agg(c::text, ',' order by id)) as digest from cities c`
	type sum struct {
		Standby bool
		Rows    int64
		Digest  string
	}
	there, err := pgkeel.One[sum](ctx, db, digest)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	here, err := pgkeel.One[sum](ctx, db.Reader(), digest)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	e.check(ctx, here.Standby && !there.Standby && here.Rows == there.Rows && here.Digest == there.Digest && int(here.Rows) == len(e.places),
		"Reader() reads from the standby: all %s places are there, and the same to the last character", count(here.Rows))
	return nil
}
