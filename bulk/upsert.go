package bulk

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// Upsert says how rows are inserted into a table, or merged with those that are
// there.
type Upsert struct {
	// Into is the table and the columns that the source has, all of them
	// named. Its options are those of [CopyFrom].
	Into Into
	// Conflict are the columns of the unique index that decides whether a row
	// is there. Either it or Constraint.
	Conflict []string
	// ConflictWhere is the predicate of that index, if it is a partial one.
	ConflictWhere string
	// Constraint is the name of the unique or exclusion constraint that
	// decides instead.
	Constraint string
	// Update are the columns that are set in rows that are there. Default: the
	// Columns that are not in Conflict.
	Update []string
	// UpdateWhere is a condition in SQL for the update. The table is visible by
	// its name, the new row as excluded. Values in it go through
	// [QuoteLiteral].
	UpdateWhere string
	// DoNothing leaves rows that are there as they are.
	DoNothing bool
	// LastWins has the last of several rows of the source with the same key
	// count. Default: they are an error, as PostgreSQL updates a row only once.
	LastWins bool
}

// UpsertResult is what an upsert came to.
type UpsertResult struct {
	// Copied is how many rows came from the source.
	Copied int64
	// Affected is how many of them were inserted or updated. The rest, that is
	// rows of DoNothing, UpdateWhere and LastWins, was left out.
	Affected int64
	// Inserted and Updated are the parts of Affected. For a partitioned table
	// and a view PostgreSQL does not tell them apart: both are -1, except with
	// DoNothing.
	Inserted, Updated int64
}

func (u *Upsert) validate(f *faults) {
	u.Into.validate(f)
	f.addf(len(u.Into.Columns) == 0, "Upsert.Into.Columns", "are missing; name those that the source has")
	f.addf(u.Into.Freeze, "Upsert.Into.Freeze", "has no effect on rows that are merged; leave it out")
	f.addf((len(u.Conflict) > 0) == (u.Constraint != ""), "Upsert.Conflict", "and Constraint: give one of them")
	f.among("Upsert.Conflict", u.Conflict, u.Into.Columns)
	f.among("Upsert.Update", u.Update, u.Into.Columns)
	if u.Constraint != "" {
		f.name("Upsert.Constraint", u.Constraint)
	}
	for field, sql := range map[string]string{"Upsert.ConflictWhere": u.ConflictWhere, "Upsert.UpdateWhere": u.UpdateWhere} {
		f.noNUL(field, sql)
		f.addf(sql != "" && strings.TrimSpace(sql) == "", field, "is blank; leave it out")
	}
	f.addf(u.ConflictWhere != "" && u.Constraint != "", "Upsert.ConflictWhere", "has an effect with Conflict only")
	f.addf(u.DoNothing && len(u.Update) > 0, "Upsert.Update", "has no effect with DoNothing; leave one out")
	f.addf(u.DoNothing && u.UpdateWhere != "", "Upsert.UpdateWhere", "has no effect with DoNothing; leave one out")
	f.addf(u.DoNothing && u.LastWins, "Upsert.LastWins", "has no effect with DoNothing, where the first wins; leave one out")
	f.addf(u.LastWins && u.Constraint != "", "Upsert.LastWins", "needs the columns of the key; give Conflict instead of Constraint")
	f.addf(!u.DoNothing && len(u.updated()) == 0, "Upsert.Update", "there is no column to update; name some, or set DoNothing")
}

func (u *Upsert) updated() []string {
	if len(u.Update) > 0 {
		return u.Update
	}
	return slices.DeleteFunc(slices.Clone(u.Into.Columns), func(c string) bool { return slices.Contains(u.Conflict, c) })
}

// staging is the temporary table. Its name is the same for the same columns of
// the same table, and another for others: the driver remembers the types of a
// table's columns by the table's name.
func (u *Upsert) staging() pgx.Identifier {
	h := fnv.New64a()
	h.Write([]byte(u.Into.Table.Sanitize() + "(" + quoteColumns(u.Into.Columns)))
	return pgx.Identifier{"pg_temp", fmt.Sprintf("pgkeel_upsert_%016x", h.Sum64())}
}

// CopyUpsert copies the rows of a source into a temporary table and merges them
// from there into the table, all in a transaction of its own. An error means
// that nothing was changed, unless its outcome is unknown. It is not retried, as
// the source is used up.
func CopyUpsert[T Tx](ctx context.Context, on Beginner[T], u Upsert, src Source) (UpsertResult, error) {
	if err := u.check(on == nil, src); err != nil {
		return UpsertResult{}, err
	}
	tx, err := on.Begin(ctx)
	if err != nil {
		return UpsertResult{}, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing
	res, err := u.run(ctx, tx, src)
	if err != nil {
		return UpsertResult{}, err
	}
	if err := tx.Commit(ctx); err != nil {
		return UpsertResult{}, err
	}
	return res, nil
}

// CopyUpsertTx is [CopyUpsert] in a transaction that goes on. If it fails, the
// transaction does; a savepoint can undo it.
func CopyUpsertTx(ctx context.Context, tx Target, u Upsert, src Source) (UpsertResult, error) {
	if err := u.check(tx == nil, src); err != nil {
		return UpsertResult{}, err
	}
	return u.run(ctx, tx, src)
}

func (u *Upsert) check(nothing bool, src Source) error {
	var f faults
	f.addf(nothing, "on", "is nil")
	u.validate(&f)
	if src == nil {
		f.addf(true, "src", "is nil")
	} else {
		src.validate(&f, &u.Into)
	}
	return f.join()
}

// run does the work. The temporary table goes at its end, so that the next one
// of the same transaction finds its name free.
func (u *Upsert) run(ctx context.Context, tx Target, src Source) (UpsertResult, error) {
	staging := u.staging()
	create := fmt.Sprintf("CREATE TEMPORARY TABLE %s ON COMMIT DROP AS SELECT %s FROM %s WITH NO DATA",
		staging.Sanitize(), quoteColumns(u.Into.Columns), u.Into.Table.Sanitize())
	if _, err := tx.Exec(ctx, create); err != nil {
		return UpsertResult{}, explain(err, &u.Into)
	}
	into := u.Into
	into.Table = staging
	copied, err := copyFrom(ctx, tx, into, src)
	if err != nil {
		return UpsertResult{}, explain(err, &u.Into)
	}
	plain, err := u.isPlain(ctx, tx)
	if err != nil {
		return UpsertResult{}, err
	}
	res, err := u.merge(ctx, tx, staging, plain)
	if err != nil {
		return UpsertResult{}, err
	}
	res.Copied = copied.Rows
	_, err = tx.Exec(ctx, "DROP TABLE "+staging.Sanitize())
	return res, err
}

// isPlain reports whether the row versions of the table can be looked at.
func (u *Upsert) isPlain(ctx context.Context, tx Target) (plain bool, err error) {
	if u.DoNothing {
		return true, nil
	}
	err = tx.QueryRow(ctx, `select relkind = 'r' from pg_class where oid = to_regclass($1)`, u.Into.Table.Sanitize()).Scan(&plain)
	return plain, err
}

func (u *Upsert) merge(ctx context.Context, tx Target, staging pgx.Identifier, plain bool) (UpsertResult, error) {
	var res UpsertResult
	err := tx.QueryRow(ctx, u.mergeSQL(staging, plain)).Scan(&res.Affected, &res.Inserted, &res.Updated)
	var pg *providers.PGError
	if errors.As(err, &pg) && pg.Code == codeCardinality {
		return res, fmt.Errorf("%w: the source has several rows with the same key; set LastWins, or leave all but one out", err)
	}
	return res, err
}

const codeCardinality = "21000"

// mergeSQL inserts or updates, and counts. A row version that was inserted has
// never been locked: its xmax is 0.
func (u *Upsert) mergeSQL(staging pgx.Identifier, plain bool) string {
	var b strings.Builder
	table, columns := u.Into.Table.Sanitize(), quoteColumns(u.Into.Columns)
	fmt.Fprintf(&b, "WITH merged AS (INSERT INTO %s (%s) %s ON CONFLICT ", table, columns, u.selectSQL(staging, columns))
	if u.Constraint != "" {
		b.WriteString("ON CONSTRAINT " + pgx.Identifier{u.Constraint}.Sanitize())
	} else {
		b.WriteString("(" + quoteColumns(u.Conflict) + ")")
		if u.ConflictWhere != "" {
			b.WriteString(" WHERE " + u.ConflictWhere + "\n")
		}
	}
	if u.DoNothing {
		b.WriteString(" DO NOTHING RETURNING true AS fresh)")
	} else {
		b.WriteString(" DO UPDATE SET " + u.assignments())
		if u.UpdateWhere != "" {
			b.WriteString(" WHERE " + u.UpdateWhere + "\n")
		}
		b.WriteString(map[bool]string{true: " RETURNING xmax = 0 AS fresh)", false: " RETURNING true)"}[plain])
	}
	if !plain {
		return b.String() + " SELECT count(*), -1::bigint, -1::bigint FROM merged"
	}
	return b.String() + " SELECT count(*), count(*) FILTER (WHERE fresh), count(*) FILTER (WHERE NOT fresh) FROM merged"
}

func (u *Upsert) assignments() string {
	var set []string
	for _, column := range u.updated() {
		name := pgx.Identifier{column}.Sanitize()
		set = append(set, name+" = excluded."+name)
	}
	return strings.Join(set, ", ")
}

// selectSQL reads the rows to be merged. Of those with the same key the last one
// counts, if that is wanted; to a unique index no NULL is the same as another.
func (u *Upsert) selectSQL(staging pgx.Identifier, columns string) string {
	from := fmt.Sprintf("SELECT %s FROM %s", columns, staging.Sanitize())
	if !u.LastWins {
		return from
	}
	key := quoteColumns(u.Conflict)
	apart := "CASE WHEN NOT (ROW(" + key + ") IS NOT NULL) THEN ctid END"
	return fmt.Sprintf("SELECT %s FROM (SELECT DISTINCT ON (%s, %s) * FROM %s ORDER BY %s, %s, ctid DESC) AS last",
		columns, key, apart, staging.Sanitize(), key, apart)
}
