package pgx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// drawn is a statement of a batch of the differential test, and how its result is read.
type drawn struct {
	sql  string
	args []any
	read reading
}

// reading is a way to read one result.
type reading int

const (
	readExec reading = iota
	readAll
	readPart
	readOpen
	readRow
	readRowUnscanned
	readWrong
	readings
)

// drawnBatch is a batch, and what is done with its results.
type drawnBatch struct {
	queued []drawn
	// byHand are read before Close, which is left the others; extra are reads
	// beyond the end.
	byHand, extra int
	// callbacks says that the others have some, failing which of them fails.
	callbacks bool
	failing   int
	// misfit says that an argument does not fit.
	misfit bool
}

// everyType has a value of most types, and NULL of each.
const everyType = `select v.*, case n when 1 then 1::int2 end, array[v.i, null, n] from generate_series(1, $1) n left join lateral
	(select n i, n::int8 b, n::float4 / 3 f, n::float8 / 7 d, n::numeric / 11 num, n::text t, decode(repeat('ab', n), 'hex') bin, n = 1 yes,
	date '2024-02-29' + n leap, timestamptz '2026-01-02 03:04:05.678+00' + n * interval '1 hour' moment, timestamp '2026-01-02' noon,
	make_interval(days => n) span, '00000000-0000-0000-0000-00000000000f'::uuid id, '{"a": [1, null]}'::json j, '{"a": 1}'::jsonb jb,
	'10.0.0.1/8'::inet net, int4range(n, n + 5) r, point(n, 2) p, (n, 'x'::text) rec, array['a', null, 'c"d'] texts, array[[1, 2], [3, n]] grid,
	n::money cash, 'c'::"char" c, n::oid o, B'101' bits, '(0/1)'::text note) v on n % 2 = 1`

// drawQueued makes a statement. Names are the same each time, so that it is known
// from before or not as it comes.
func drawQueued(r *rand.Rand, kept, inTx bool) (q drawn, misfit bool) {
	id := int64(r.IntN(12))
	text := strings.Repeat("é", r.IntN(40))
	q.read = reading(r.IntN(int(readings)))
	set := func(sql string, args ...any) { q.sql, q.args = sql, args }
	one := func(sqls ...string) string { return sqls[r.IntN(len(sqls))] }
	switch n := r.IntN(60); {
	case n < 12:
		set(`insert into items values ($1, $2, $3, $4::text::numeric, $5, '2026-01-02 03:04:05+00', $6, $7)
			on conflict (id) do update set qty = items.qty + 1 returning *`, id, 1, text, "1.50", []string{text, "b"}, map[string]any{"a": 1}, r.IntN(5))
	case n < 18:
		set(`select * from items where id = $1`, id)
	case n < 22:
		set(everyType, r.IntN(4))
	case n < 25:
		set(`update items set name = $2, qty = qty + 1 where id = $1 returning id, qty`, id, &text)
	case n < 28:
		set(`delete from items where id = $1`, id)
	case n < 31:
		set(`select n, $2::text from generate_series(1, $1::int) n`, r.IntN(300), strings.Repeat("x", r.IntN(2000)))
	case n < 33:
		set(`select length($1::text), repeat($1::text, 2)`, strings.Repeat("y", r.IntN(100_000)))
	case n < 35:
		set(`select count(*) from items where owner = @owner and id <> @id`, pgx.NamedArgs{"owner": 1, "id": id})
	case n < 37:
		set("by_name", id)
	case n < 38:
		set(one("show server_version_num", "explain (costs off) select 1 where false", "select from items limit 2", "values (1), (null)", "table late"))
	case n < 39:
		set(one(";", " ", "-- nothing")) // over "" pgx panics
	case n < 41:
		set(one("savepoint a", "rollback to a", "release a"))
	case n < 43 && (inTx || kept):
		set(one("declare c cursor for select n, n::text from generate_series(1, 5) n", "fetch 2 from c", "move 1 in c", "close c"))
	case n < 45 && kept:
		set(one("prepare p as select $1::int + 1 as next", "execute p(41)", "execute p(null)", "set application_name = 'x'",
			"set local work_mem = '5MB'", "show application_name", "create temp table mine (n int)", "truncate mine",
			"drop table mine"))
	case n < 46:
		set(one("begin", "commit", "rollback"))
	case n < 47: // what names a table for the server to look up would be known from when it was there
		set(one("create table made (n int)", "truncate made", "drop table made"))
	case n < 50: // what follows fails, most times
		set(`select 10 / ($1::int - n) from generate_series(1, 5) n`, r.IntN(14))
	case n < 51:
		set(`insert into items (id, owner, qty) values ($1, $2, $3)`, id, 1, r.IntN(3)-1)
	case n < 52:
		set(`insert into late values ($1)`, id)
	case n < 53:
		set(`select $1::text::int`, one("12", "no number"))
	case n < 54:
		set(one("selec 1", "select 1 from nowhere", "select nothing from items", "select 1; select 2", "select boom(7)"))
	case n < 55:
		set(`select count(*) from items where owner = @owner`, pgx.StrictNamedArgs{one("owner", "other"): 1})
	case n < 56:
		set(`select $1::int + $2::int`, [][]any{{1}, {1, 2, 3}, {"x", 2}, {struct{}{}, 1}, {nil, 2}, {1, 2}}[r.IntN(6)]...)
		misfit = len(q.args) != 2 || reflect.DeepEqual(q.args[0], "x") || q.args[0] == struct{}{}
	default:
		set(`select $1::text, $2::bytea, $3::timestamptz, $4::int[]`, &text, []byte(text), time.Unix(id, 0), []*int{nil, new(int)})
	}
	if strings.HasPrefix(q.sql, "execute") || strings.HasPrefix(q.sql, "fetch") {
		q.read = readRow // in which format the values come depends on what was there when it was prepared
	}
	return q, misfit
}

// knownMatters are statements that in a failed transaction come to what depends on
// which others were prepared before: pgx forgets those of every batch that fails.
var knownMatters = map[string]bool{"selec 1": true, "select 1; select 2": true, "commit": true, "rollback": true, "rollback to a": true}

func drawBatch(r *rand.Rand, kept, inTx, failed bool) (d drawnBatch) {
	for range r.IntN(9) {
		q, misfit := drawQueued(r, kept, inTx)
		if failed && (misfit || knownMatters[q.sql]) {
			continue
		}
		d.misfit = d.misfit || misfit
		d.queued = append(d.queued, q)
	}
	if d.misfit {
		// pgx has the server run what comes before, and cuts the connection: a commit counts.
		d.queued = slices.DeleteFunc(d.queued, func(q drawn) bool { return q.sql == "commit" })
	}
	d.byHand = r.IntN(len(d.queued) + 1)
	// Of an error behind the rows that are open pgkeel tells sooner than pgx.
	open := d.byHand > 0 && (d.queued[d.byHand-1].read == readOpen || d.queued[d.byHand-1].read == readRowUnscanned)
	if d.byHand == len(d.queued) && !open {
		d.extra = r.IntN(3)
	}
	d.callbacks, d.failing = r.IntN(3) > 0, -1
	if !failed && !open && r.IntN(4) == 0 {
		d.failing = r.IntN(len(d.queued) + 1)
	}
	return d
}

var errOwn = errors.New("the callback's own")

// play sends a batch and tells all that came of it.
type play struct {
	lines []string
	// end is the error of Close.
	end error
	// wired says that it left as one exchange.
	wired bool
}

func (p *play) say(format string, args ...any) {
	p.lines = append(p.lines, fmt.Sprintf(format, args...))
}

// send sends a batch and does with its results what was drawn.
func (p *play) send(ctx context.Context, on batchSender, d drawnBatch) {
	b := &pgx.Batch{}
	for i, q := range d.queued {
		item := b.Queue(q.sql, q.args...)
		if d.callbacks && i >= d.byHand {
			p.callback(i, item, q.read, i == d.failing)
		}
	}
	results := on.SendBatch(ctx, b)
	if ours, ok := results.(*batchResults); ok {
		_, p.wired = ours.BatchResults.(*wiredBatch)
	}
	for i := range d.byHand {
		p.say("%d: %s", i, p.read(results, d.queued[i].read))
	}
	for range d.extra {
		p.say("extra: %s", p.read(results, readAll))
		p.say("extra: %s", p.read(results, readExec))
	}
	p.end = results.Close()
	p.say("close: %s", outcome(p.end))
	p.say("again: %s", outcome(results.Close()))
	for _, how := range []reading{readExec, readAll, readRow} {
		p.say("behind: %s", p.read(results, how))
	}
}

// callback gives a statement one that tells what it read. One that is called with
// an error tells nothing: whether it is called at all then differs.
func (p *play) callback(i int, item *pgx.QueuedQuery, how reading, fails bool) {
	var err error
	if fails {
		err = errOwn
	}
	switch how {
	case readExec:
		item.Exec(func(tag pgconn.CommandTag) error {
			p.say("callback %d: %s", i, tag)
			return err
		})
	case readRow, readRowUnscanned:
		item.QueryRow(func(row pgx.Row) error {
			if how == readRow {
				var v any
				scan := row.Scan(&v)
				if scan != nil {
					return scan
				}
				p.say("callback %d: %v", i, v)
			}
			return err
		})
	case readAll, readPart, readWrong: // readOpen has none
		item.Query(func(rows pgx.Rows) error {
			said, failure := readRows(rows, how)
			if failure != nil {
				return failure
			}
			p.say("callback %d: %s", i, said)
			return err
		})
	}
}

func (p *play) read(results pgx.BatchResults, how reading) string {
	switch how {
	case readExec:
		tag, err := results.Exec()
		return fmt.Sprint(tag, " ", outcome(err))
	case readRow:
		var v any
		err := results.QueryRow().Scan(&v)
		return fmt.Sprint(v, " ", outcome(err))
	case readRowUnscanned:
		results.QueryRow()
		return ""
	default:
		rows, err := results.Query()
		if err != nil {
			rows.Close()
			return fmt.Sprint("query: ", outcome(err), " ", outcome(rows.Err()), " ", rows.Next())
		}
		said, err := readRows(rows, how)
		return fmt.Sprint(said, " ", outcome(err))
	}
}

// readRows reads rows, all or some of them.
func readRows(rows pgx.Rows, how reading) (said string, err error) {
	if err := rows.Err(); err != nil {
		return "", err // pgx panics over its columns
	}
	var b strings.Builder
	for _, f := range rows.FieldDescriptions() {
		fmt.Fprint(&b, f.Name, " ", f.DataTypeOID, " ", f.TypeModifier, " ", f.Format, ", ")
	}
	for n := 0; rows.Next(); n++ {
		if how == readWrong {
			if raw := rows.RawValues(); len(raw) == 1 && raw[0] == nil {
				break // pgx reads NULL into this or not, as it comes
			}
			var wrong struct{}
			if err := rows.Scan(&wrong); err == nil {
				return "scanned into nothing", nil
			}
			break
		}
		values, err := rows.Values()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%#v %q", values, rows.RawValues())
		if how == readOpen {
			return b.String(), nil // the next read, or Close, ends them
		}
		if how == readPart && n == 1 {
			break
		}
	}
	rows.Close()
	if rows.Err() == nil {
		fmt.Fprint(&b, " ", rows.CommandTag())
	}
	return b.String(), rows.Err()
}

// outcome is what an error says, as far as pgkeel and pgx say the same.
func outcome(err error) string {
	var pg *pgconn.PgError
	var scan pgx.ScanArgError
	if err == nil {
		return "ok"
	}
	text := err.Error()
	has := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.As(err, &pg):
		return pg.Code
	case errors.As(err, &scan), has("number of field descriptions"):
		return "a value that does not fit"
	case has("failed to encode", "unable to encode", "cannot be encoded", "mismatched param", "expected "):
		return "an argument that does not fit"
	case has("rewrite", "argument not found", "not used in", "unused"):
		return "a name that does not fit"
	default:
		return text
	}
}

// side is one of the two that are compared.
type side struct {
	pool interface {
		batchSender
		Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
		Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	}
	acquire func() (batchSender, *pgconn.PgConn, func())
	begin   func() (batchSender, *pgconn.PgConn, func(commit bool) error)

	kept    batchSender
	wire    *pgconn.PgConn
	release func()
}

// refresh sees to it that the kept connection is there, and in no transaction.
func (s *side) refresh(t *testing.T) {
	if s.kept != nil && !s.wire.IsClosed() && s.wire.TxStatus() != 'I' {
		if _, err := s.kept.(interface {
			Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
		}).Exec(t.Context(), "rollback"); err != nil {
			t.Fatal(err)
		}
	}
	if s.kept == nil || s.wire.IsClosed() {
		s.drop()
		s.kept, s.wire, s.release = s.acquire()
	}
}

func (s *side) drop() {
	if s.kept != nil {
		s.release()
		s.kept = nil
	}
}

func ourSide(t *testing.T, p *Pool) *side {
	return &side{
		pool: p,
		acquire: func() (batchSender, *pgconn.PgConn, func()) {
			c := acquireN(t, p, 1)[0].(*Conn)
			return c, c.lease.conn().PgConn(), c.Release
		},
		begin: func() (batchSender, *pgconn.PgConn, func(bool) error) {
			tx := begin(t, p, providers.TxOptions{})
			return tx, tx.lease.conn().PgConn(), func(commit bool) error {
				if commit {
					return tx.Commit(t.Context())
				}
				return tx.Rollback(t.Context())
			}
		},
	}
}

func theirSide(t *testing.T, p *pgxpool.Pool) *side {
	return &side{
		pool: p,
		acquire: func() (batchSender, *pgconn.PgConn, func()) {
			c, err := p.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return c, c.Conn().PgConn(), c.Release
		},
		begin: func() (batchSender, *pgconn.PgConn, func(bool) error) {
			tx, err := p.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return tx, tx.Conn().PgConn(), func(commit bool) error {
				if commit {
					return tx.Commit(t.Context())
				}
				return tx.Rollback(t.Context())
			}
		},
	}
}

func preparesByName(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Prepare(ctx, "by_name", "select $1::bigint * 2")
	return err
}

// compare plays a batch on both, and counts what left as one exchange.
func compare(t *testing.T, what string, ours, theirs batchSender, d drawnBatch, wired *int) (same bool) {
	t.Helper()
	var got, want play
	want.send(t.Context(), theirs, d)
	got.send(t.Context(), ours, d)
	if !reflect.DeepEqual(got.lines, want.lines) {
		t.Errorf("%s:\n%+v\n got %s\nwant %s", what, d, shown(got.lines), shown(want.lines))
		return false
	}
	if got.wired {
		*wired++
	}
	if refused := outcome(got.end) == "an argument that does not fit"; refused && providers.OutcomeOf(got.end) != providers.OutcomeNotSent {
		t.Errorf("%s: %v was not told as not sent", what, got.end)
	}
	return true
}

func shown(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "\n\t%.200s", line)
	}
	return b.String()
}

func TestBatchAgreesWithPgx(t *testing.T) {
	p := openPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 2}, AfterConnect: preparesByName})
	config, err := pgxpool.ParseConfig(pgtest.NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	config.AfterConnect = preparesByName
	bare, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	ours, theirs := ourSide(t, p), theirSide(t, bare)
	for _, s := range []*side{ours, theirs} {
		defer s.drop()
		if _, err := s.pool.Exec(t.Context(), mixedSchema); err != nil {
			t.Fatal(err)
		}
	}
	wired := 0
	for i := range 900 {
		if t.Failed() {
			return
		}
		ours.refresh(t)
		theirs.refresh(t)
		r := rand.New(rand.NewPCG(uint64(i), 27))
		what := fmt.Sprintf("batch %d", i)
		switch i % 3 {
		case 0:
			compare(t, what+" of the pool", ours.pool, theirs.pool, drawBatch(r, false, false, false), &wired)
		case 1:
			for range 1 + r.IntN(3) {
				d := drawBatch(r, true, false, ours.wire.TxStatus() == 'E')
				if !compare(t, what+" of a connection", ours.kept, theirs.kept, d, &wired) {
					return
				}
				if ours.wire.IsClosed() && !theirs.wire.IsClosed() {
					t.Errorf("%s cost a connection: %+v", what, d)
				}
				if theirs.wire.IsClosed() {
					ours.drop() // a new session for both
					break
				}
				if got, want := ours.wire.TxStatus(), theirs.wire.TxStatus(); got != want {
					t.Errorf("%s ended in %c instead of %c", what, got, want)
				}
			}
		default:
			playTx(t, r, what, ours, theirs, &wired)
		}
	}
	sameTables(t, p, bare)
	if wired < 450 {
		t.Errorf("it proved little: %d left as one exchange", wired)
	}
}

// sameTables finds what differs in the tables.
func sameTables(t *testing.T, p *Pool, bare *pgxpool.Pool) {
	t.Helper()
	for _, sql := range []string{`select * from items order by id`, `select * from late order by n`} {
		m := mixed{sql: sql}
		if got, want := ask(t.Context(), p, m), ask(t.Context(), bare, m); !reflect.DeepEqual(got, want) {
			t.Errorf("%s differs afterwards", sql)
		}
	}
}

// playTx plays some batches in a transaction, which at times has failed before.
func playTx(t *testing.T, r *rand.Rand, what string, ours, theirs *side, wired *int) {
	ourTx, ourWire, ourEnd := ours.begin()
	theirTx, theirWire, theirEnd := theirs.begin()
	if r.IntN(4) == 0 {
		for _, tx := range []batchSender{ourTx, theirTx} {
			b := &pgx.Batch{}
			b.Queue("select 1/0")
			_ = tx.SendBatch(t.Context(), b).Close()
		}
	}
	commit := r.IntN(2) == 0
	for range 1 + r.IntN(3) {
		compare(t, what+" of a transaction", ourTx, theirTx, drawBatch(r, false, true, ourWire.TxStatus() == 'E'), wired)
		if theirWire.IsClosed() || theirWire.TxStatus() == 'I' { // the batch ended it
			break
		}
		if got, want := ourWire.TxStatus(), theirWire.TxStatus(); got != want {
			t.Errorf("%s ended in %c instead of %c", what, got, want)
		}
	}
	if theirWire.IsClosed() || theirWire.TxStatus() == 'I' {
		commit = false // where they differ, as they shall
	}
	got, want := ourEnd(commit), theirEnd(commit)
	if commit && (got == nil) != (want == nil) {
		t.Errorf("%s: %v instead of %v", what, got, want)
	}
}
