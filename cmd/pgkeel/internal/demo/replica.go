package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgkeel/pgkeel"
)

// replica reads on the standby what was written on the primary, and tries to
// write there.
func replica(ctx context.Context, e *environment) error {
	db, err := e.open(ctx, "replica", e.cluster.Standbys()[0], appName+"-replica",
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: smallSize}))
	if err != nil {
		return err
	}
	if err := follows(ctx, e, db); err != nil {
		return err
	}
	_, err = db.Exec(ctx, `delete from cities`)
	e.out.line("a write on the replica:")
	e.out.quote("%v", err)
	var pg *pgkeel.PGError
	e.check(ctx, errors.As(err, &pg) && pg.IsReadOnly() && pgkeel.OutcomeOf(err) == pgkeel.OutcomeRolledBack,
		"it is refused, and the error says why (IsReadOnly)")
	return nil
}

// follows writes on the primary, waits for the replica, and compares the two.
func follows(ctx context.Context, e *environment, db *pgkeel.DB) error {
	if _, err := e.db.Exec(ctx, `create table letters as select 'to the replica' as address`); err != nil {
		return fmt.Errorf("write on the primary: %w", err)
	}
	begin := time.Now()
	if err := e.cluster.WaitCaughtUp(ctx); err != nil {
		return fmt.Errorf("wait for the replica: %w", err)
	}
	took := time.Since(begin)
	standby, err := pgkeel.One[bool](ctx, db, `select pg_is_in_recovery()`)
	if err != nil {
		return err
	}
	written, err := db.QueryCount(ctx, `select count(*) from letters`)
	if err != nil {
		return err
	}
	e.check(ctx, standby && written == 1, "what was written on the primary is on the replica, after %s", short(took))
	const digest = `select count(*) as rows, md5(string_agg(c::text, ',' order by id)) as digest from cities c`
	sides := map[*pgkeel.DB]struct {
		Rows   int64
		Digest string
	}{}
	for _, side := range []*pgkeel.DB{e.db, db} {
		sum := sides[side]
		if err := side.QueryOne(ctx, &sum, digest); err != nil {
			return fmt.Errorf("compare: %w", err)
		}
		sides[side] = sum
	}
	e.check(ctx, sides[db] == sides[e.db] && int(sides[db].Rows) == len(e.places),
		"all %s places are there, and the same to the last character", count(sides[db].Rows))
	return nil
}
