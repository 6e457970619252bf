package providers

import (
	"errors"
	"fmt"
	"strconv"
)

// GateSQL returns a query that fails on a standby which has not replayed a place
// in the log, and only there; see [Behind]. The place is SQL: a literal, or $1.
func GateSQL(place string) string {
	return `select (case when pg_catalog.pg_is_in_recovery() and (pg_catalog.pg_last_wal_replay_lsn() < ` + place +
		`::pg_catalog.pg_lsn) is not false then 'pgkeel: not replayed yet' else '0' end)::pg_catalog.int4`
}

// Behind turns the failure of [GateSQL], and no other, into [ErrBehind].
func Behind(err error) error {
	const invalidText = "22P02"
	var pg *PGError
	if !errors.As(err, &pg) {
		pg = NewPGError(err)
	}
	if pg != nil && pg.Code == invalidText {
		return ErrBehind
	}
	return err
}

// PositionSQL is a query for the server's position, which [ReadPosition] reads. It
// asks for the role once, since that can change in between, and calls no function
// that a role refuses.
const PositionSQL = `select r::pg_catalog.text,
	case when not r then pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) end,
	(case when r then pg_catalog.pg_last_wal_receive_lsn() else pg_catalog.pg_current_wal_insert_lsn() end)::pg_catalog.text,
	(case when r then pg_catalog.pg_last_wal_replay_lsn() end)::pg_catalog.text,
	pg_catalog.current_setting('wal_block_size'),
	(select system_identifier::pg_catalog.text from pg_catalog.pg_control_system())
	from (select pg_catalog.pg_is_in_recovery() as r offset 0) as s`

// LongestCommit is how far what can be seen on a standby may be ahead of what it
// says it has replayed, in bytes: a commit is visible a moment before. A commit is
// as long as that when its transaction changed the schema of thousands of tables.
const LongestCommit = 1 << 20

// PositionColumns is how many columns [PositionSQL] has.
const PositionColumns = 6

// ReadPosition reads the row of [PositionSQL], all of whose columns are text; NULL
// is empty.
func ReadPosition(row [][]byte) (p Position, err error) {
	const timelineDigits = 8
	if len(row) != PositionColumns {
		return p, fmt.Errorf("pgkeel: a position of %d columns; PositionSQL has %d", len(row), PositionColumns)
	}
	if p.System, err = strconv.ParseUint(string(row[5]), 10, 64); err != nil {
		return p, fmt.Errorf("pgkeel: a position of the cluster %q: %w", row[5], err)
	}
	file, place, replayed := string(row[1]), string(row[2]), string(row[3])
	if p.Standby = string(row[0]) == "true"; p.Standby {
		received, _ := ParseLSN(place) // there is none where it only reads an archive
		p.Replayed, err = ParseLSN(replayed)
		p.LSN = min(max(received, p.Replayed), p.Replayed+LongestCommit)
		return p, err
	}
	if p.LSN, err = ParseLSN(place); err != nil {
		return p, err
	}
	p.LSN = endOfRecord(p.LSN, string(row[4]))
	timeline, err := strconv.ParseUint(file[:min(timelineDigits, len(file))], 16, 32)
	p.Timeline = uint32(timeline)
	return p, err
}

// endOfRecord is where the last record ends that lies before the place where the
// next one begins. On a page's boundary that is behind the page's header, which no
// standby replays before there is a next one. No record ends right there.
func endOfRecord(next LSN, page string) LSN {
	const header = 24
	size, err := strconv.ParseUint(page, 10, 32)
	if err == nil && size > 0 && uint64(next)%size == header {
		return next - header
	}
	return next
}
