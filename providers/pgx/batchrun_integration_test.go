package pgx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// batchRunner is what runs batches.
type batchRunner interface {
	runner
	providers.BatchRunner
}

// window is that of most tests: nothing in them is large.
const window = 64 << 10

// callOf makes a call of queued statements.
func callOf(group int, queued ...*pgx.QueuedQuery) *providers.BatchCall {
	next := 0
	return &providers.BatchCall{
		Group: group, MaxStatements: 1000, MaxBytes: window,
		Next: func() (*pgx.QueuedQuery, error) {
			if next == len(queued) {
				return nil, nil
			}
			next++
			return queued[next-1], nil
		},
	}
}

func queued(sql string, args ...any) *pgx.QueuedQuery {
	return &pgx.QueuedQuery{SQL: sql, Arguments: args}
}

// insertsOf queues an insert for each number.
func insertsOf(numbers ...int) []*pgx.QueuedQuery {
	all := make([]*pgx.QueuedQuery, len(numbers))
	for i, n := range numbers {
		all[i] = queued("insert into t values ($1)", n)
	}
	return all
}

func withCallbacks(all []*pgx.QueuedQuery) []*pgx.QueuedQuery {
	for _, q := range all {
		q.Exec(func(pgconn.CommandTag) error { return nil })
	}
	return all
}

// statesOf is a report in a word: o f n r u.
func statesOf(call *providers.BatchCall) string {
	var s strings.Builder
	for _, state := range call.Report.States {
		s.WriteByte(state.String()[0])
	}
	return s.String()
}

func numbersIn(t testing.TB, q providers.Querier) []int {
	t.Helper()
	rows, _ := q.Query(t.Context(), "select n from t order by n")
	all, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

const batchTable = "create table t (n int primary key)"

// agree fails where what is in the table is not what the states say of the
// statements, of which the i-th inserts i.
func agree(t *testing.T, what string, call *providers.BatchCall, left []int) {
	t.Helper()
	for i, state := range call.Report.States {
		there := slices.Contains(left, i)
		switch state {
		case providers.BatchOK:
			if !there {
				t.Errorf("%s: %d is ok and not there: %s %v", what, i, statesOf(call), left)
			}
		case providers.BatchUnknown:
		default:
			if there {
				t.Errorf("%s: %d is %s and there: %s %v", what, i, state, statesOf(call), left)
			}
		}
	}
}

// A connection that is lost at any message of a batch, before or behind it: the
// states say no more than is so.
func TestBatchStatesHoldWhereverTheConnectionIsLost(t *testing.T) {
	dsn := pgtest.NewDB(t)
	observer := balanced(t, providers.Config{DSN: dsn})
	mustExec(t, observer, batchTable)
	w, address := newWire(t, dsn)
	p := balanced(t, providers.Config{DSN: address + "&application_name=lossy"})
	const size = 6
	for _, mode := range []struct {
		name      string
		group     int
		callbacks bool
		inTx      bool
		window    int
	}{
		{"atomic", 0, false, false, 1000},
		{"atomic with callbacks", 0, true, false, 1000},
		{"atomic, one at a time", 0, true, false, 1},
		{"isolated", 1, false, false, 1000},
		{"isolated, one at a time", 1, true, false, 1},
		{"grouped", 2, false, false, 1000},
		{"grouped with callbacks", 2, true, false, 4},
		{"in a transaction", 0, true, true, 1000},
		{"isolated in a transaction", 1, false, true, 1000},
		{"grouped in a transaction", 2, false, true, 3},
	} {
		t.Run(mode.name, func(t *testing.T) {
			for lost, at := true, 0; lost; at++ {
				for _, v := range []verdict{cutBefore, cutAfter} {
					mustExec(t, observer, "truncate t")
					mustExec(t, p, "select 1") // a connection is there
					all := insertsOf(0, 1, 2, 3, 4, 5)
					if mode.callbacks {
						withCallbacks(all)
					}
					call := callOf(mode.group, all...)
					call.MaxStatements = mode.window
					lost = loseAt(w, at, v, func() error { return runLossy(t, p, call, mode.inTx) })
					eventually(t, "the server is through with it", func() bool {
						return value[int](t, observer, "select count(*) from pg_stat_activity "+
							"where application_name = 'lossy' and (state <> 'idle' or $1)", lost) == 0
					})
					left := numbersIn(t, observer)
					agree(t, fmt.Sprintf("message %d, %v", at, v), call, left)
					if !lost && (len(left) != size || strings.Trim(statesOf(call), "o") != "") && !mode.inTx {
						t.Errorf("nothing was lost, and yet %s %v: %v", statesOf(call), left, call.Report.Err())
					}
				}
			}
		})
	}
}

// loseAt runs do, loses the connection at a message of the client, and reports
// whether it came so far. To be lost behind a message, it must be one that the
// server answers by itself.
func loseAt(w *wire, at int, v verdict, do func() error) (lost bool) {
	n := 0
	w.mu.Lock()
	w.rule = func(kind byte, _ []byte) verdict {
		n++
		if lost || n <= at || v == cutAfter && kind != 'S' {
			return forward
		}
		lost = true
		return v
	}
	w.mu.Unlock()
	err := do()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rule = nil
	return lost && err != nil
}

func runLossy(t *testing.T, p *Pool, call *providers.BatchCall, inTx bool) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if !inTx {
		return p.RunBatch(ctx, call)
	}
	tx, err := p.Begin(ctx, providers.TxOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := tx.(*Tx).RunBatch(ctx, call); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		// That the commit was lost is not the batch's to know.
		call.Report.States = nil
		return err
	}
	return nil
}

// A backend that is ended by an administrator, in the middle of a batch.
func TestBatchBackendTerminated(t *testing.T) {
	for group, want := range map[int]string{0: "rrr", 1: "ouu", 2: "oor"} {
		p := balanced(t, providers.Config{})
		mustExec(t, p, batchTable)
		all := insertsOf(0, 1, 2)
		if group == 1 {
			all[1] = queued("select pg_terminate_backend(pg_backend_pid())")
		} else {
			all[2] = queued("select pg_terminate_backend(pg_backend_pid())")
		}
		withCallbacks(all)
		call := callOf(group, all...)
		err := p.RunBatch(t.Context(), call)
		var pg *providers.PGError
		var item *providers.BatchError
		if !errors.As(err, &pg) || pg.Code != "57P01" || !errors.As(err, &item) || item.Operation != providers.BatchConnection {
			t.Errorf("group %d: %v", group, err)
		}
		if got := statesOf(call); got != want {
			t.Errorf("group %d: %s instead of %s", group, got, want)
		}
		if got := numbersIn(t, p); len(got) != strings.Count(want, "o") {
			t.Errorf("group %d: left are %v", group, got)
		}
	}
}

// slowProxy forwards in small pieces, over sockets with small buffers.
func slowProxy(t testing.TB, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	const small = 32 << 10
	return withAddress(t, dsn, listen(t, func(client net.Conn) {
		defer client.Close()
		server, err := net.Dial("tcp", u.Host)
		if err != nil {
			return
		}
		defer server.Close()
		for _, c := range []net.Conn{client, server} {
			_ = c.(*net.TCPConn).SetReadBuffer(small)
			_ = c.(*net.TCPConn).SetWriteBuffer(small)
		}
		var both sync.WaitGroup
		forward := func(to, from net.Conn) {
			_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, small))
			_ = to.Close()
		}
		both.Go(func() { forward(server, client) })
		both.Go(func() { forward(client, server) })
		both.Wait()
	}))
}

// Trap 27: large arguments one way and large results the other, with buffers
// that hold next to nothing. A side that only writes would wait for one that
// only writes.
func TestTrap27LargeBothWays(t *testing.T) {
	dsn := pgtest.NewDB(t)
	p := balanced(t, providers.Config{DSN: slowProxy(t, dsn)})
	for name, c := range map[string]struct{ args, result, n int }{
		"1 MB one way, 1 MB the other":    {1 << 20, 1 << 20, 4},
		"20 kB one way, 1 MB the other":   {20 << 10, 1 << 20, 8},
		"nothing one way, 1 MB the other": {1, 1 << 20, 8},
		"1 MB one way, nothing the other": {1 << 20, 1, 4},
	} {
		for _, group := range []int{0, 1, 4} {
			t.Run(fmt.Sprintf("%s, groups of %d", name, group), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				text, got := strings.Repeat("x", c.args), 0
				var all []*pgx.QueuedQuery
				for range c.n {
					q := queued("select repeat('y', $2::int) from (select $1::text) x", text, c.result)
					q.QueryRow(func(row pgx.Row) error {
						var s string
						err := row.Scan(&s)
						got += len(s)
						return err
					})
					all = append(all, q)
				}
				call := callOf(group, all...)
				if err := p.RunBatch(ctx, call); err != nil {
					t.Fatal(err)
				}
				if got != c.n*c.result {
					t.Errorf("%d bytes", got)
				}
			})
		}
	}
}

// Trap 27: a stream without an end in the memory of a window. A million
// statements take no more, but long under the race detector.
func TestTrap27AStreamInBoundedMemory(t *testing.T) {
	p := balanced(t, providers.Config{})
	const size = 150_000
	var most uint64
	base := heap()
	call := callOf(1000)
	n := 0
	call.Next = func() (*pgx.QueuedQuery, error) {
		if n == size {
			return nil, nil
		}
		if n++; n%(size/10) == 0 {
			most = max(most, heap())
		}
		return queued("select $1::int", n), nil
	}
	if err := p.RunBatch(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if got := call.Report.Count(providers.BatchOK); got != size {
		t.Errorf("%d ok", got)
	}
	// Half a kilobyte for each statement under way, and a byte for each state.
	if grown := int64(most) - int64(base); grown > 2<<20 {
		t.Errorf("%d bytes more in use", grown)
	}
}

// Results that nobody waits for yet are not kept in memory either.
func TestTrap27LargeResultsAreNotBuffered(t *testing.T) {
	p := balanced(t, providers.Config{})
	var most uint64
	base := heap()
	var all []*pgx.QueuedQuery
	for i := range 64 {
		q := queued("select repeat('y', $1::int)", 1<<20)
		q.Query(func(rows pgx.Rows) error {
			for rows.Next() {
				if len(rows.RawValues()[0]) != 1<<20 {
					t.Error("it is not all there")
				}
			}
			if i%16 == 0 {
				most = max(most, heap())
			}
			return nil
		})
		all = append(all, q)
	}
	if err := p.RunBatch(t.Context(), callOf(1, all...)); err != nil {
		t.Fatal(err)
	}
	if grown := int64(most) - int64(base); grown > 12<<20 {
		t.Errorf("%d bytes more in use", grown)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Statements that the connection does not know are described in one flush, and
// each batch is one more.
func TestBatchRoundTrips(t *testing.T) {
	dsn := pgtest.NewDB(t)
	w, address := newWire(t, dsn)
	p := balanced(t, providers.Config{DSN: address})
	mustExec(t, p, batchTable)
	syncs := func(group int, callbacks bool, sqls ...string) int {
		var all []*pgx.QueuedQuery
		for _, sql := range sqls {
			all = append(all, queued(sql))
		}
		if callbacks {
			withCallbacks(all)
		}
		return w.count(func() {
			if err := p.RunBatch(t.Context(), callOf(group, all...)); err != nil {
				t.Error(err)
			}
		})
	}
	// Three descriptions with a Sync each and one behind them; then the batch.
	if n := syncs(0, false, "select 1", "select 2", "select 3"); n != 4+1 {
		t.Errorf("the first time: %d", n)
	}
	if n := syncs(0, false, "select 1", "select 2", "select 3"); n != 1 {
		t.Errorf("atomic without callbacks: %d", n)
	}
	if n := syncs(0, true, "select 1", "select 2", "select 3"); n != 2 {
		t.Errorf("atomic with callbacks, statements and commit: %d", n)
	}
	if n := syncs(1, true, "select 1", "select 2", "select 3"); n != 3 {
		t.Errorf("isolated: %d", n)
	}
	if n := syncs(2, false, "select 1", "select 2", "select 3"); n != 2 {
		t.Errorf("grouped without callbacks: %d", n)
	}
}

func TestBatchExecModes(t *testing.T) {
	for mode, text := range map[pgx.QueryExecMode]string{
		pgx.QueryExecModeCacheStatement: "cache_statement", pgx.QueryExecModeCacheDescribe: "cache_describe",
		pgx.QueryExecModeDescribeExec: "describe_exec", pgx.QueryExecModeExec: "exec",
	} {
		t.Run(text, func(t *testing.T) {
			p := balanced(t, providers.Config{DSN: pgtest.NewDB(t) + "&default_query_exec_mode=" + text})
			mustExec(t, p, batchTable)
			for _, group := range []int{0, 1, 2} {
				for range 2 { // the second time it is known
					mustExec(t, p, "truncate t")
					all := insertsOf(1, 2, 3)
					sum := 0
					last := queued("select n, n::text, now() from t where n > $1", 0)
					last.Query(func(rows pgx.Rows) error {
						var n int
						var text string
						var at time.Time
						_, err := pgx.ForEachRow(rows, []any{&n, &text, &at}, func() error { sum += n; return nil })
						return err
					})
					call := callOf(group, append(all, last)...)
					if err := p.RunBatch(t.Context(), call); err != nil {
						t.Fatal(err)
					}
					if sum != 6 || call.Report.RowsAffected != 3+3 {
						t.Errorf("group %d: the sum is %d, %d rows", group, sum, call.Report.RowsAffected)
					}
				}
			}
			if n := value[int](t, p, "select count(*) from pg_prepared_statements where name like 'pgkeel%'"); (n > 0) != (mode == pgx.QueryExecModeCacheStatement) {
				t.Errorf("%d prepared statements", n)
			}
		})
	}
	t.Run("simple_protocol", func(t *testing.T) {
		p := balanced(t, providers.Config{DSN: pgtest.NewDB(t) + "&default_query_exec_mode=simple_protocol"})
		err := p.RunBatch(t.Context(), callOf(1, queued("select 1")))
		if !errors.Is(err, errors.ErrUnsupported) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Error(err)
		}
	})
}

// A statement may need what one before it makes.
func TestBatchMakesWhatItNeeds(t *testing.T) {
	for _, group := range []int{0, 1, 2} {
		for _, callbacks := range []bool{false, true} {
			t.Run(fmt.Sprintf("groups of %d, callbacks %v", group, callbacks), func(t *testing.T) {
				onEach(t, providers.Config{}, "", func(t *testing.T, p *Pool, q runner) {
					all := append([]*pgx.QueuedQuery{queued(batchTable)}, insertsOf(1, 2)...)
					if callbacks {
						withCallbacks(all)
					}
					call := callOf(group, all...)
					if err := q.(batchRunner).RunBatch(t.Context(), call); err != nil || statesOf(call) != "ooo" {
						t.Errorf("%s: %v", statesOf(call), err)
					}
					if got := numbersIn(t, q); !slices.Equal(got, []int{1, 2}) {
						t.Errorf("%v", got)
					}
				})
			})
		}
	}
}

// One that cannot be described fails at its turn, as it would by itself.
func TestBatchStatementThatCannotBeDescribed(t *testing.T) {
	for group, want := range map[int]string{0: "rfn", 1: "ofo", 2: "rfo"} {
		for _, callbacks := range []bool{false, true} {
			onEach(t, providers.Config{}, batchTable, func(t *testing.T, p *Pool, q runner) {
				all := insertsOf(1, 2, 3)
				all[1] = queued("insert into nowhere values (1)")
				if callbacks {
					withCallbacks(all)
				}
				call := callOf(group, all...)
				err := q.(batchRunner).RunBatch(t.Context(), call)
				var pg *providers.PGError
				var item *providers.BatchError
				if !errors.As(err, &pg) || pg.Code != "42P01" || !errors.As(err, &item) || item.Index != 1 {
					t.Errorf("groups of %d: %v", group, err)
				}
				if got := statesOf(call); got != want {
					t.Errorf("groups of %d, callbacks %v: %s instead of %s", group, callbacks, got, want)
				}
				if got := numbersIn(t, q); len(got) != strings.Count(want, "o") {
					t.Errorf("left are %v", got)
				}
				if p.Stats().Connects != 1 {
					t.Error("the connection can go on")
				}
			})
		}
	}
}

// A statement that cannot be sent: arguments that do not fit, options, NUL.
func TestBatchStatementThatCannotBeSent(t *testing.T) {
	for name, bad := range map[string]*pgx.QueuedQuery{
		"a wrong type":      queued("insert into t values ($1)", []string{"s3cret"}),
		"too few arguments": queued("insert into t values ($1)"),
		"too many":          queued("insert into t values ($1)", 1, 2),
		"an option":         queued("insert into t values ($1)", pgx.QueryExecModeExec, 9),
		"another option":    queued("insert into t values ($1)", pgx.QueryResultFormats{1}, 9),
		"a NUL":             queued("insert into t values (9)\x00"),
		"its rewriter":      queued("insert into t values ($1)", failingRewriter{}),
		"a missing name":    queued("insert into t values (@n)", pgx.StrictNamedArgs{"m": 9}),
		"begin":             queued("/* now */ begin"),
		"start":             queued("start transaction"),
		"commit":            queued("commit"),
		"end":               queued("END"),
		"rollback":          queued("rollback"),
		"prepare":           queued("prepare transaction 'x'"),
		"data in":           queued("copy t from stdin"),
		"data out":          queued("/* all */ COPY (select 1) TO STDOUT (format csv)"),
	} {
		for group, want := range map[int]string{0: "rfn", 1: "ofo", 2: "rfo"} {
			for _, callbacks := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/%v", name, group, callbacks), func(t *testing.T) {
					p := balanced(t, providers.Config{})
					mustExec(t, p, batchTable)
					all := insertsOf(1, 2, 3)
					all[1] = queued(bad.SQL, bad.Arguments...)
					if callbacks {
						withCallbacks(all)
					}
					call := callOf(group, all...)
					err := p.RunBatch(t.Context(), call)
					var item *providers.BatchError
					if !errors.As(err, &item) || item.Index != 1 || item.Result != providers.OutcomeNotSent || item.SQL != bad.SQL {
						t.Fatalf("%v", err)
					}
					if strings.Contains(err.Error(), "s3cret") {
						t.Errorf("an argument is in the error: %v", err)
					}
					if got := statesOf(call); got != want && got != strings.Replace(want, "rf", "nf", 1) {
						t.Errorf("%s instead of %s", got, want)
					}
					if got := numbersIn(t, p); len(got) != strings.Count(want, "o") {
						t.Errorf("left are %v", got)
					}
					if p.Stats().Connects != 1 {
						t.Error("the connection can go on")
					}
				})
			}
		}
	}
}

type failingRewriter struct{}

func (failingRewriter) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	return "", nil, errors.New("no")
}

func TestBatchRewriter(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, batchTable)
	q := queued("insert into t values (@n)", pgx.NamedArgs{"n": 7})
	for range 2 { // it stays as it was, and can be sent again
		mustExec(t, p, "truncate t")
		if err := p.RunBatch(t.Context(), callOf(0, q)); err != nil {
			t.Fatal(err)
		}
	}
	if got := numbersIn(t, p); !slices.Equal(got, []int{7}) || q.SQL != "insert into t values (@n)" {
		t.Errorf("%v, %s", got, q.SQL)
	}
}
