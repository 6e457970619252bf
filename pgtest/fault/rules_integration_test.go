package fault_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
)

// insertAndCommit writes a row in a transaction. A prepared COMMIT goes by Parse,
// Bind and Execute instead of Query.
func insertAndCommit(t testing.TB, conn *pgx.Conn, prepared bool, patience time.Duration) error {
	t.Helper()
	must(t, exec(t.Context(), conn, "begin"))
	must(t, exec(t.Context(), conn, "insert into t values ($1)", 1))
	ctx := within(t, patience)
	if prepared {
		return conn.PgConn().ExecParams(ctx, "  Commit ;", nil, nil, nil, nil).Read().Err
	}
	return exec(ctx, conn, "commit")
}

func TestCommit(t *testing.T) {
	for name, tc := range map[string]struct {
		action fault.Action
		waits  bool
		rows   int
	}{
		"cut before":      {fault.Cut, false, 0},
		"reset before":    {fault.Reset, false, 0},
		"cut after":       {fault.CutAfter, false, 1},
		"reply cut":       {fault.CutReply, false, 1},
		"reply swallowed": {fault.SwallowReply, true, 1},
		"dropped":         {fault.Drop, true, 0},
		"black hole":      {fault.BlackHole, true, 0},
	} {
		for how, prepared := range map[string]bool{"query": false, "execute": true} {
			t.Run(name+"/"+how, func(t *testing.T) {
				rule := fault.On(fault.Commit(), tc.action)
				p := start(t, rule)
				defer p.Close() // or the client waits, in the background, to hear of its end
				conn := connect(t, p.DSN())
				if tc.waits {
					waits(t, insertAndCommit(t, conn, prepared, 5*soon))
				} else {
					lost(t, conn, insertAndCommit(t, conn, prepared, patience))
				}
				fires(t, rule)
				if tc.action == fault.CutAfter {
					eventuallyRows(t, p, tc.rows) // the server was not waited for
				}
				if n := rows(t, p); n != tc.rows {
					t.Errorf("%d rows", n)
				}
				if !slices.Equal(p.Fired(), []*fault.Rule{rule}) || rule.Times() != 1 {
					t.Errorf("fired: %v, %d times", p.Fired(), rule.Times())
				}
			})
		}
	}
}

// eventuallyRows has the database tell when nobody else works on it any more.
func eventuallyRows(t testing.TB, p *fault.Proxy, want int) {
	t.Helper()
	conn, ctx := connect(t, p.Upstream()), within(t, patience)
	for {
		var n int
		must(t, conn.QueryRow(ctx, "select count(*) from t, pg_sleep(0.01)").Scan(&n))
		if n == want {
			return
		}
	}
}

// A reply is lost from its own first message on: what was asked before, under the
// same Sync, is heard.
func TestSwallowReplyOfAPipelinedStatement(t *testing.T) {
	rule := fault.On(fault.SQL("INSERT   into t"), fault.CutReply)
	p := start(t, rule)
	conn := connect(t, p.DSN())
	batch := &pgx.Batch{}
	batch.Queue("select 1")
	batch.Queue("insert into t values (1)")
	batch.Queue("select 2")
	results := conn.SendBatch(within(t, patience), batch)
	var one int
	must(t, results.QueryRow().Scan(&one))
	if _, err := results.Exec(); err == nil {
		t.Error("the reply should be lost")
	}
	_ = results.Close()
	fires(t, rule)
	if n := rows(t, p); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func TestSwallowReplyTwice(t *testing.T) {
	first, second := fault.On(fault.SQL("select 1"), fault.SwallowReply), fault.On(fault.SQL("select 2"), fault.CutReply)
	p := start(t, first, second)
	defer p.Close()
	conn := connect(t, p.DSN())
	for _, sql := range []string{"select 1", "select 2"} {
		conn.PgConn().Frontend().SendQuery(&pgproto3.Query{String: sql})
	}
	must(t, conn.PgConn().Frontend().Flush())
	fires(t, first)
	fires(t, second)
	_, err := conn.PgConn().ReceiveMessage(within(t, soon))
	waits(t, err)
}

func TestReplyToCopy(t *testing.T) {
	rule := fault.On(fault.Frontend('c'), fault.CutReply)
	p := start(t, rule)
	conn := connect(t, p.DSN())
	src := pgx.CopyFromSlice(10, func(i int) ([]any, error) { return []any{int32(i)}, nil })
	_, err := conn.CopyFrom(within(t, patience), pgx.Identifier{"t"}, []string{"n"}, src)
	lost(t, conn, err)
	fires(t, rule)
	if n := rows(t, p); n != 10 {
		t.Errorf("%d rows", n)
	}
}

func TestSwallowReplyIsOverWithTheConnection(t *testing.T) {
	rule := fault.On(fault.SQL("pg_terminate_backend"), fault.SwallowReply)
	p := start(t, rule)
	conn := connect(t, p.DSN())
	lost(t, conn, exec(within(t, patience), conn, "select pg_terminate_backend(pg_backend_pid())"))
	fires(t, rule)
}

func TestCutAfterTheNthCommandComplete(t *testing.T) {
	rule := fault.On(fault.Backend('C').Matching("insert").Nth(2), fault.CutAfter)
	p := start(t, rule)
	conn := connect(t, p.DSN())
	must(t, exec(t.Context(), conn, "insert into t values (1)"))
	must(t, exec(t.Context(), conn, "select 1"))
	result := conn.PgConn().Exec(within(t, patience), "insert into t values (2)")
	if !result.NextResult() {
		t.Error("the result should be there")
	}
	if tag, err := result.ResultReader().Close(); err != nil || tag.String() != "INSERT 0 1" {
		t.Errorf("the CommandComplete should have arrived: %v, %v", tag, err)
	}
	if err := result.Close(); err == nil {
		t.Error("the connection should have ended behind it")
	}
	fires(t, rule)
	eventuallyRows(t, p, 2)
}

func TestARuleFiresOnceOrEveryTime(t *testing.T) {
	once, every := fault.On(fault.SQL("select 1"), fault.Delay(0)), fault.On(fault.SQL("select 1").Nth(2).Every(), fault.Delay(0))
	p := start(t, once, every)
	for range 2 { // over all connections
		conn := connect(t, p.DSN())
		for range 2 {
			must(t, exec(t.Context(), conn, "select 1"))
		}
	}
	if once.Times() != 1 || every.Times() != 3 {
		t.Errorf("once: %d, every time from the second: %d", once.Times(), every.Times())
	}
}

func TestRulesAreAddedAndRemovedWhileRunning(t *testing.T) {
	p := start(t)
	conn := connect(t, p.DSN())
	rule, other := fault.On(fault.SQL("select 1").Every(), fault.Delay(0)), fault.On(fault.SQL("select 1"), fault.Delay(0))
	must(t, exec(t.Context(), conn, "select 1"))
	must(t, p.Add(rule, other))
	must(t, exec(t.Context(), conn, "select 1"))
	p.Remove(rule)
	must(t, exec(t.Context(), conn, "select 1"))
	if rule.Times() != 1 || !slices.Equal(p.Fired(), []*fault.Rule{rule, other}) {
		t.Errorf("fired: %v", p.Fired())
	}
}

func TestDelay(t *testing.T) {
	const long = 150 * time.Millisecond
	p := start(t, fault.On(fault.Backend('Z').Nth(2), fault.Delay(long)))
	defer p.Close()
	conn := connect(t, p.DSN())
	began := time.Now()
	must(t, exec(t.Context(), conn, "select 1"))
	if took := time.Since(began); took < long {
		t.Errorf("it took %v", took)
	}
	must(t, p.Add(fault.On(fault.Frontend('Q'), fault.Delay(time.Hour))))
	waits(t, exec(within(t, soon), conn, "select 1")) // and the proxy can be closed
}

func TestWhereSeesTheText(t *testing.T) {
	var seen []string
	all := fault.Frontend().Where(func(m fault.Message) bool {
		if m.SQL != "" {
			seen = append(seen, string(m.Type)+" "+m.SQL)
		}
		return false
	})
	p := start(t, fault.On(all, fault.Drop))
	conn := connect(t, p.DSN())
	_, err := conn.Prepare(t.Context(), "one", "select 1")
	must(t, err)
	must(t, exec(t.Context(), conn, "one"))
	must(t, conn.Deallocate(t.Context(), "one"))
	must(t, exec(t.Context(), conn, "select 2"))
	must(t, p.Close())
	if want := []string{"P select 1", "B select 1", "E select 1", "Q select 2"}; !slices.Equal(seen, want) {
		t.Errorf("%q", seen)
	}
}

func TestCancelRequests(t *testing.T) {
	p := start(t)
	defer p.Close()
	conn := connect(t, p.DSN())
	cancelled := func(d time.Duration) error {
		done := make(chan error, 1)
		ctx, stop := context.WithTimeout(t.Context(), d)
		defer stop()
		go func() { done <- exec(ctx, conn, "select pg_sleep(3600)") }()
		awaitSleep(t, p)
		_ = conn.PgConn().CancelRequest(within(t, patience)) // whether it arrives is the question
		return <-done
	}
	if err, pgErr := cancelled(patience), (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "57014" {
		t.Errorf("it should be cancelled: %v", err)
	}
	passed := fault.On(fault.Cancel(), fault.CutAfter)
	must(t, p.Add(passed))
	if err, pgErr := cancelled(patience), (*pgconn.PgError)(nil); !errors.As(err, &pgErr) {
		t.Errorf("it should be cancelled: %v", err)
	}
	fires(t, passed)
	lostRequest := fault.On(fault.Cancel().Every(), fault.Drop)
	must(t, p.Add(lostRequest))
	waits(t, cancelled(10*soon))
	fires(t, lostRequest)
}

// awaitSleep returns when a statement sleeps.
func awaitSleep(t testing.TB, p *fault.Proxy) {
	t.Helper()
	conn, ctx := connect(t, p.Upstream()), within(t, patience)
	for sleeping := false; !sleeping; {
		must(t, conn.QueryRow(ctx, "select exists (select from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database())").Scan(&sleeping))
	}
}

func TestEachMessage(t *testing.T) {
	for name, action := range map[string]fault.Action{"cut": fault.Cut, "reply": fault.CutReply} {
		t.Run(name, func(t *testing.T) {
			runs, faults := 0, 0
			fault.EachMessage(t, withTable, action, func(t *testing.T, p *fault.Proxy) {
				runs++
				err := insertOne(t, p)
				if len(p.Fired()) > 0 {
					faults++
				} else if err != nil {
					t.Errorf("without a fault: %v", err)
				}
				if err == nil && rows(t, p) != 1 {
					t.Error("it was told to be there")
				}
			})
			// At least the messages of a Query, Parse, Describe, Sync, Bind and Execute.
			if faults < 6 || runs < faults+2 {
				t.Errorf("%d runs, %d faults", runs, faults)
			}
		})
	}
}

func insertOne(t *testing.T, p *fault.Proxy) error {
	ctx := within(t, patience)
	conn, err := pgx.Connect(ctx, p.DSN())
	if err != nil {
		return err
	}
	defer closeConn(t, conn)
	return exec(ctx, conn, "insert into t values ($1)", 1)
}

func TestRulesThatMakeNoSense(t *testing.T) {
	dsn := pgtest.NewDB(t)
	for want, rule := range map[string]*fault.Rule{
		"matches nothing":    fault.On(fault.Match{}, fault.Cut),
		"counted from 1":     fault.On(fault.Frontend().Nth(0), fault.Cut),
		"does nothing":       fault.On(fault.Frontend(), fault.Action{}),
		"cannot be negative": fault.On(fault.Frontend(), fault.Delay(-1)),
		"have a reply":       fault.On(fault.Backend(), fault.CutReply),
		"the client have a":  fault.On(fault.Cancel(), fault.SwallowReply),
		"that is nil":        nil,
	} {
		_, err := fault.Start(dsn, rule)
		contains(t, err, want)
		contains(t, start(t).Add(rule), want)
	}
	contains(t, start(t).Add(fault.On(fault.Frontend(), fault.Drop), nil), "that is nil")
	_, err := fault.Start(dsn, fault.Through(nil))
	contains(t, err, "needs a Line")
	_, err = fault.Start(dsn, nil)
	contains(t, err, "option that is nil")
}

func TestRulesDescribeThemselves(t *testing.T) {
	for want, rule := range map[string]*fault.Rule{
		`backend "C" matching "INSERT", number 2, every time: Delay(1s)`: fault.On(fault.Backend('C').Matching("INSERT").Nth(2).Every(), fault.Delay(time.Second)),
		`frontend where a function agrees: Cut`:                          fault.On(fault.Frontend().Where(func(fault.Message) bool { return true }), fault.Cut),
		`SQL "select": SwallowReply`:                                     fault.On(fault.SQL("select"), fault.SwallowReply),
		`COMMIT: Drop`:                                                   fault.On(fault.Commit(), fault.Drop),
		`cancel request: BlackHole`:                                      fault.On(fault.Cancel(), fault.BlackHole),
	} {
		if rule.String() != want {
			t.Errorf("%v, want %s", rule, want)
		}
	}
	for want, d := range map[string]fault.Direction{"ToServer": fault.ToServer, "ToClient": fault.ToClient, "Both": fault.Both, "no direction": 0} {
		if d.String() != want {
			t.Errorf("%v, want %s", d, want)
		}
	}
}
