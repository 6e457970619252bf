package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// The defaults of [Outbox].
const (
	// DefaultOutboxTable is the table's name.
	DefaultOutboxTable = "pgkeel_outbox"
	// DefaultOutboxPage is how many records are read at a time.
	DefaultOutboxPage = 500
	// DefaultOutboxPoll is how often a follower looks without being told to.
	DefaultOutboxPoll = 30 * time.Second
)

// Outbox is a table of messages that are delivered for certain. [Outbox.Publish]
// writes a message in the transaction of what it tells of, so both happen or
// neither; [Outbox.Follow] reads them in order, woken by notifications, and goes
// on where it was after whatever came in between. The zero value is ready for
// use.
//
// # Order
//
// A record's id says when it was written, not when its transaction committed: a
// lower one may become visible after a higher one was read, and who only
// remembers the highest id loses it. So each record carries the id of its
// transaction (an xid8, which never wraps), records are read in the order of
// transaction and id, and only below the oldest transaction still in progress
// (pg_snapshot_xmin): there, nothing can be added any more.
//
// A standby that takes over may lack the last transactions of the old primary,
// and gives their ids to others. A follower that was there notices, by comparing
// the last 1,000 records that it delivered, and goes back to where histories
// part; what was delivered and then lost with the old primary, nobody can call
// back. One that only has a position from before cannot notice. Where that
// matters, replicate synchronously.
//
// The price: a record is delivered only when every transaction that got its id
// before has ended, in all databases of the server. One that writes for an hour
// holds up delivery for an hour; nothing is lost meanwhile.
type Outbox struct {
	// Table is the table. Default: pgkeel_outbox, wherever the search path
	// leads.
	Table pgx.Identifier
	// PageSize is how many records are read at a time. Default: 500.
	PageSize int
	// PollInterval is how often Follow looks for records without being told to,
	// for those that something else inserted. Default: 30 s. Off: never.
	PollInterval time.Duration
	// Logger hears of failures to read that Follow gets over. Default:
	// slog.Default.
	Logger *slog.Logger
}

// Record is a message of an outbox.
type Record struct {
	// Position is where it stands. Follow from here to go on behind it.
	Position
	// Channel is where it was published.
	Channel string
	// Payload is what was published.
	Payload string
	// Created is when, by the server's clock.
	Created time.Time
}

// DecodeRecord reads the JSON of a record's payload into a T. One that does not
// fit is a [*DecodeError].
func DecodeRecord[T any](r Record) (T, error) { return decode[T](r.Channel, r.Payload) }

// Validate reports every fault at once, each as a [*providers.ConfigError].
func (o Outbox) Validate() error {
	var faults []error
	if len(o.Table) > 2 {
		faults = append(faults, configError("Outbox.Table", "%d parts; give it a table, or a schema and a table", len(o.Table)))
	}
	for _, part := range o.Table {
		if part == "" || len(part) > MaxChannelBytes || strings.ContainsRune(part, 0) {
			faults = append(faults, configError("Outbox.Table", "%q is no name", part))
		}
	}
	if o.PageSize < 0 {
		faults = append(faults, configError("Outbox.PageSize", "%d is negative; leave it 0 for %d", o.PageSize, DefaultOutboxPage))
	}
	if o.PollInterval < 0 && o.PollInterval != providers.Off {
		faults = append(faults, configError("Outbox.PollInterval", "%s is negative; leave it 0 for %s", o.PollInterval, DefaultOutboxPoll))
	}
	return errors.Join(faults...)
}

func (o Outbox) table() string {
	if len(o.Table) == 0 {
		return pgx.Identifier{DefaultOutboxTable}.Sanitize()
	}
	return o.Table.Sanitize()
}

// SQL returns the statements that make the table, for a migration. They do
// nothing where it is there already.
func (o Outbox) SQL() string { return strings.Join(o.statements(), ";\n") + ";\n" }

func (o Outbox) statements() []string {
	index := DefaultOutboxTable
	if len(o.Table) > 0 {
		index = o.Table[len(o.Table)-1]
	}
	const suffix = "_position"
	index = strings.ToValidUTF8(index[:min(len(index), MaxChannelBytes-len(suffix))], "") + suffix
	return []string{
		`create table if not exists ` + o.table() + ` (
	id bigint generated always as identity primary key,
	xid xid8 not null default pg_current_xact_id(),
	channel text not null,
	payload text not null,
	created_at timestamptz not null default clock_timestamp()
)`,
		`create index if not exists ` + pgx.Identifier{index}.Sanitize() + ` on ` + o.table() + ` (channel, xid, id)`,
	}
}

// check refuses what cannot work.
func (o Outbox) check(q providers.Querier) error {
	if q == nil {
		return errNoQuerier
	}
	return o.Validate()
}

// Create makes the table unless it is there. See [Outbox.SQL].
func (o Outbox) Create(ctx context.Context, q providers.Querier) error {
	if err := o.check(q); err != nil {
		return err
	}
	for _, sql := range o.statements() {
		_, err := q.Exec(ctx, sql)
		if isMadeMeanwhile(err) {
			_, err = q.Exec(ctx, sql)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isMadeMeanwhile reports that somebody else made the same at the same time, which
// "if not exists" does not see.
func isMadeMeanwhile(err error) bool {
	pg := providers.NewPGError(err)
	return pg != nil && (pg.IsUniqueViolation() || pg.IsDuplicateObject())
}

// Publish writes a message and wakes the followers, in the caller's transaction:
// both happen at its commit, or not at all. A payload may have any length. The
// notification has none, so that of many in one transaction one is sent; who
// subscribes to the channel without following the outbox sees that.
//
// It returns the record's id.
func (o Outbox) Publish(ctx context.Context, q providers.Querier, channel, payload string) (int64, error) {
	if err := o.check(q); err != nil {
		return 0, err
	}
	if err := checkChannel(channel); err != nil {
		return 0, err
	}
	if err := checkText(payload); err != nil {
		return 0, err
	}
	var id int64
	var nothing string // what a void function returns, as text
	err := q.QueryRow(ctx, `with record as (insert into `+o.table()+` (channel, payload) values ($1, $2) returning id)
		select id, pg_notify($1, '')::text from record`, channel, payload).Scan(&id, &nothing)
	return id, err
}

// PublishJSON is [Outbox.Publish] with the JSON of a value. See [DecodeRecord]
// for the other side.
func (o Outbox) PublishJSON(ctx context.Context, q providers.Querier, channel string, value any) (int64, error) {
	payload, err := encode(value)
	if err != nil {
		return 0, err
	}
	return o.Publish(ctx, q, channel, payload)
}

// End returns the position behind which everything is new: for followers that
// begin with what is published from now on.
func (o Outbox) End(ctx context.Context, q providers.Querier) (Position, error) {
	if err := o.check(q); err != nil {
		return Position{}, err
	}
	// Whatever commits from now on has an id that was in progress or not given
	// yet. Records of finished transactions above the oldest one in progress are
	// delivered once more, rather than one of that one not at all.
	var xid string
	if err := q.QueryRow(ctx, `select pg_snapshot_xmin(pg_current_snapshot())::text`).Scan(&xid); err != nil {
		return Position{}, err
	}
	return newPosition(xid, 0)
}

// Purge deletes the records that are older than an age, and returns how many.
// Nobody asks who has read them: keep them for longer than any follower may be
// away.
func (o Outbox) Purge(ctx context.Context, q providers.Querier, age time.Duration) (int64, error) {
	if err := o.check(q); err != nil {
		return 0, err
	}
	if age <= 0 {
		return 0, configError("age", "%s would delete what nobody has read yet; give it the time that a follower may be away", age)
	}
	tag, err := q.Exec(ctx, `delete from `+o.table()+` where created_at < clock_timestamp() - $1 * interval '1 microsecond'`, age.Microseconds())
	return tag.RowsAffected(), err
}

func (o Outbox) logger() *slog.Logger {
	if o.Logger != nil {
		return o.Logger
	}
	return slog.Default()
}

func (o Outbox) pageSize() int { return cmp.Or(o.PageSize, DefaultOutboxPage) }

// page reads what comes next. more says that there may be more at once, and
// unsettled that there is a record which must wait for older transactions.
func (o Outbox) page(ctx context.Context, q providers.Querier, channel string, from Position) (page []Record, more, unsettled bool, err error) {
	rows, err := q.Query(ctx, `select xid::text, id, settled, case when settled then payload else '' end, created_at
		from (select *, xid < pg_snapshot_xmin(pg_current_snapshot()) as settled from `+o.table()+`
			where channel = $1 and (xid, id) > ($2::text::xid8, $3) order by xid, id limit $4) next
		order by next.xid, id`,
		channel, fmt.Sprint(from.XID), from.ID, o.pageSize())
	if err != nil {
		return nil, false, false, err
	}
	defer rows.Close()
	for rows.Next() {
		r := Record{Channel: channel}
		var xid string
		var settled bool
		if err := rows.Scan(&xid, &r.ID, &settled, &r.Payload, &r.Created); err != nil {
			return nil, false, false, err
		}
		if !settled {
			unsettled = true
			continue // and so are all behind it
		}
		if r.Position, err = newPosition(xid, r.ID); err != nil {
			return nil, false, false, err
		}
		page = append(page, r)
	}
	return page, len(page) == o.pageSize(), unsettled, rows.Err()
}
