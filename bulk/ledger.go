package bulk

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// DefaultLedger is the table in which [ParallelLoad] notes what it committed.
const DefaultLedger = "pgkeel_loads"

// ErrLoadDiffers means that what is loaded is not what was loaded under the
// same ID before.
var ErrLoadDiffers = errors.New("pgkeel: bulk: the load differs from what was begun under this ID")

// ledger is the table of committed chunks.
type ledger struct {
	table  string
	id     string
	target string
}

// entry is what is known of a chunk.
type entry struct {
	target   string
	offset   int64
	bytes    int64
	checksum int64
	rows     int64
}

// makeTable makes the ledger, unless it is there: not everybody who may load may
// make tables.
func (l *ledger) makeTable(ctx context.Context, on providers.Querier) error {
	var there bool
	if err := on.QueryRow(ctx, `select to_regclass($1) is not null`, l.table).Scan(&there); err != nil || there {
		return err
	}
	_, err := on.Exec(ctx, `create table if not exists `+l.table+` (
	load_id text not null,
	chunk bigint not null,
	target text not null,
	first_byte bigint not null,
	bytes bigint not null,
	checksum bigint not null,
	rows bigint not null,
	committed_at timestamptz not null default clock_timestamp(),
	primary key (load_id, chunk))`)
	var pg *providers.PGError
	if errors.As(err, &pg) && (pg.IsUniqueViolation() || pg.IsDuplicateObject()) {
		return nil // somebody else made it in the same moment
	}
	return err
}

// read returns what was committed, by number.
func (l *ledger) read(ctx context.Context, on providers.Querier) (map[int64]entry, error) {
	rows, err := on.Query(ctx, `select chunk, target, first_byte, bytes, checksum, rows from `+l.table+` where load_id = $1`, l.id)
	if err != nil {
		return nil, err
	}
	done := map[int64]entry{}
	var no int64
	var e entry
	_, err = pgx.ForEachRow(rows, []any{&no, &e.target, &e.offset, &e.bytes, &e.checksum, &e.rows}, func() error {
		done[no] = e
		return nil
	})
	return done, err
}

// claim notes the chunk, in the transaction that loads it. Where it is noted
// already, the note is returned. One that is just being loaded by somebody else
// is waited for.
func (l *ledger) claim(ctx context.Context, tx providers.Querier, no int64, e entry) (noted *entry, err error) {
	tag, err := tx.Exec(ctx, `insert into `+l.table+` (load_id, chunk, target, first_byte, bytes, checksum, rows)
		values ($1, $2, $3, $4, $5, $6, 0) on conflict (load_id, chunk) do nothing`,
		l.id, no, e.target, e.offset, e.bytes, e.checksum)
	if err != nil || tag.RowsAffected() == 1 {
		return nil, err
	}
	noted = &entry{}
	err = tx.QueryRow(ctx, `select target, first_byte, bytes, checksum, rows from `+l.table+` where load_id = $1 and chunk = $2`, l.id, no).
		Scan(&noted.target, &noted.offset, &noted.bytes, &noted.checksum, &noted.rows)
	return noted, err
}

// complete adds how many rows the chunk had.
func (l *ledger) complete(ctx context.Context, tx providers.Querier, no, rows int64) error {
	_, err := tx.Exec(ctx, `update `+l.table+` set rows = $3, committed_at = clock_timestamp() where load_id = $1 and chunk = $2`, l.id, no, rows)
	return err
}

// verify compares a chunk with the note of it.
func (l *ledger) verify(no int64, noted, e entry) error {
	switch {
	case noted.target != e.target:
		return fmt.Errorf("%w: %q was loaded into %s, not %s; use another ID", ErrLoadDiffers, l.id, noted.target, e.target)
	case noted.offset != e.offset || noted.bytes != e.bytes || noted.checksum != e.checksum:
		return fmt.Errorf("%w: chunk %d of %q, %d bytes at byte %d, was %d bytes at byte %d with other contents or another size of chunks; "+
			"give the same data, Format and ChunkBytes, or another ID", ErrLoadDiffers, no, l.id, e.bytes, e.offset, noted.bytes, noted.offset)
	}
	return nil
}

// ForgetLoad deletes what the ledger holds of a load, so that its ID can be used
// for another. The default ledger is meant by a nil table.
func ForgetLoad(ctx context.Context, on providers.Querier, table pgx.Identifier, id string) error {
	if len(table) == 0 {
		table = pgx.Identifier{DefaultLedger}
	}
	var f faults
	f.addf(on == nil, "on", "is nil")
	f.table("table", table)
	f.loadID("id", id)
	if err := f.join(); err != nil {
		return err
	}
	_, err := on.Exec(ctx, `delete from `+table.Sanitize()+` where load_id = $1`, id)
	return err
}

// maxLoadID fits into an index with room to spare.
const maxLoadID = 500

func (f *faults) loadID(field, id string) {
	f.addf(id == "", field, "is missing; give the load a name, the same one when it is run again")
	f.noNUL(field, id)
	f.addf(len(id) > maxLoadID, field, "has %d bytes; at most %d", len(id), maxLoadID)
}
