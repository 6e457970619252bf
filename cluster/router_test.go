package cluster

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// read runs a query and returns where its row came from.
func read(ctx context.Context, q providers.Querier, sql string) (from string, err error) {
	err = q.QueryRow(ctx, sql).Scan(&from)
	return from, err
}

// Where each operation goes, by what its context and options say, and never by its
// text.
func TestTrap40Routes(t *testing.T) {
	query := func(sql string) func(ctx context.Context, c *Cluster) error {
		return func(ctx context.Context, c *Cluster) error {
			_, err := read(ctx, c, sql)
			return err
		}
	}
	begin := func(opts providers.TxOptions) func(ctx context.Context, c *Cluster) error {
		return func(ctx context.Context, c *Cluster) error {
			_, err := c.Begin(ctx, opts)
			return err
		}
	}
	reader, replica := providers.WithReadOnly, PreferReplica
	plain := func(ctx context.Context) context.Context { return ctx }
	primary := func(ctx context.Context) context.Context { return PreferPrimary(reader(ctx)) }
	readOnly := providers.TxOptions{Access: providers.ReadOnly}
	for name, tc := range map[string]struct {
		context func(context.Context) context.Context
		do      func(context.Context, *Cluster) error
		want    string
	}{
		"a query":                           {plain, query("select 1"), primaryName},
		"a query that only reads":           {reader, query("select 1"), "a"},
		"a locking read, declared":          {reader, query("select 1 from t for update"), "a"},
		"a volatile function, declared":     {reader, query("select nextval('s')"), "a"},
		"an insert, declared":               {reader, query("insert into t values (1)"), "a"},
		"a query that prefers a replica":    {replica, query("select 1"), "a"},
		"a query that prefers the primary":  {primary, query("select 1"), primaryName},
		"the preference of the last":        {func(ctx context.Context) context.Context { return PreferPrimary(replica(ctx)) }, query("select 1"), primaryName},
		"the other way round":               {func(ctx context.Context) context.Context { return replica(primary(ctx)) }, query("select 1"), "a"},
		"a preference declares nothing":     {PreferPrimary, query("select 1"), primaryName},
		"on the primary only":               {func(ctx context.Context) context.Context { return OnPrimary(replica(ctx)) }, query("select 1"), primaryName},
		"lag that none has":                 {func(ctx context.Context) context.Context { return WithMaxLag(reader(ctx), time.Nanosecond) }, query("select 1"), primaryName},
		"lag that all have":                 {func(ctx context.Context) context.Context { return WithMaxLag(reader(ctx), time.Hour) }, query("select 1"), "a"},
		"lag without a limit":               {func(ctx context.Context) context.Context { return WithMaxLag(reader(ctx), -1) }, query("select 1"), "a"},
		"lag of what may write":             {func(ctx context.Context) context.Context { return WithMaxLag(ctx, time.Hour) }, query("select 1"), primaryName},
		"a transaction":                     {plain, begin(providers.TxOptions{}), primaryName},
		"a transaction among reads":         {reader, begin(providers.TxOptions{}), primaryName},
		"a read-only transaction":           {plain, begin(readOnly), "a"},
		"a serializable one":                {plain, begin(providers.TxOptions{Access: providers.ReadOnly, Isolation: providers.Serializable}), primaryName},
		"a read-only one on the primary":    {PreferPrimary, begin(readOnly), primaryName},
		"a transaction on a replica":        {replica, begin(providers.TxOptions{}), "a"},
		"one that writes in spite of that":  {replica, begin(providers.TxOptions{Access: providers.ReadWrite}), primaryName},
		"a transaction with its statement":  {replica, beginWith, primaryName},
		"a connection":                      {plain, acquire, primaryName},
		"a connection for reading":          {reader, acquire, "a"},
		"a connection of a session":         {func(ctx context.Context) context.Context { return reader(WithSession(ctx, NewSession())) }, acquire, primaryName},
		"a batch":                           {plain, batch, primaryName},
		"a batch of reads":                  {reader, batch, "a"},
		"a stream":                          {plain, stream, primaryName},
		"a stream of reads":                 {reader, stream, "a"},
		"rows loaded":                       {replica, load, primaryName},
		"data loaded":                       {replica, loadData, primaryName},
		"data copied out":                   {plain, unload, primaryName},
		"data copied out, declared to read": {reader, unload, "a"},
		"a ping":                            {plain, ping, primaryName},
		"a ping for reading":                {reader, ping, "a"},
		"a statement":                       {plain, exec, primaryName},
		"a statement that only reads":       {reader, exec, "a"},
		"a call":                            {plain, runExec, primaryName},
		"a call that only reads":            {reader, runExec, "a"},
		"a call for rows":                   {reader, runQuery, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, Options{}, "a")
			old := time.Now().Add(-time.Minute)
			s.view().replicas[0].current.Store(&old)
			if err := tc.do(tc.context(t.Context()), s.Cluster); err != nil {
				t.Fatal(err)
			}
			s.expect(tc.want)
			if n := s.inUse(); n != 0 {
				t.Errorf("%d in use", n)
			}
		})
	}
}

func acquire(ctx context.Context, c *Cluster) error {
	conn, err := c.Acquire(ctx)
	if err == nil {
		conn.Release()
	}
	return err
}

func beginWith(ctx context.Context, c *Cluster) error {
	_, err := c.BeginWith(ctx, providers.TxOptions{}, providers.Statement{})
	return err
}

func batch(ctx context.Context, c *Cluster) error {
	r := c.SendBatch(ctx, &pgx.Batch{})
	err := r.Close()
	if of, ok := r.(*results); ok && !of.conn.(*fakeConn).released {
		return errors.New("the connection was not given back")
	}
	return err
}

func stream(ctx context.Context, c *Cluster) error { return c.RunBatch(ctx, &providers.BatchCall{}) }

func load(ctx context.Context, c *Cluster) error {
	_, err := c.CopyFrom(ctx, pgx.Identifier{"t"}, nil, nil)
	return err
}

func loadData(ctx context.Context, c *Cluster) error {
	_, err := c.CopyFromReader(ctx, strings.NewReader(""), "copy t from stdin")
	return err
}

func unload(ctx context.Context, c *Cluster) error {
	_, err := c.CopyToWriter(ctx, &bytes.Buffer{}, "copy t to stdout")
	return err
}

func ping(ctx context.Context, c *Cluster) error { return c.Ping(ctx) }

func exec(ctx context.Context, c *Cluster) error {
	_, err := c.Exec(ctx, "select 1")
	return err
}

func runExec(ctx context.Context, c *Cluster) error {
	return c.Run(ctx, &providers.Call{Kind: providers.CallExec, SQL: "select 1"})
}

func runQuery(ctx context.Context, c *Cluster) error {
	call := &providers.Call{SQL: "select 1", Scope: []providers.Setting{{Name: "a", Value: "b"}}}
	if err := c.Run(ctx, call); err != nil {
		return err
	}
	var from string
	return providers.FirstRow(call.Rows).Scan(&from)
}

// The configured preference counts where the context has none.
func TestPreferPrimaryOfThePool(t *testing.T) {
	s := newStage(t, Options{}, "a")
	s.preferPrimary = true
	ctx := providers.WithReadOnly(t.Context())
	for _, ctx := range []context.Context{ctx, PreferReplica(ctx)} {
		if _, err := read(ctx, s, "select 1"); err != nil {
			t.Fatal(err)
		}
	}
	s.expect(primaryName, "a")
	s.replace(func(v *view) { v.writer = nil })
	if from, err := read(ctx, s, "select 1"); err != nil || from != "a" {
		t.Errorf("%s: %v", from, err)
	}
	s.went()
	s.replace(func(v *view) { v.writer = fakeServer("other") })
	s.pools[primaryName].say(reply{err: errUnreachable})
	if from, err := read(ctx, s, "select 1"); err != nil || from != "a" {
		t.Errorf("%s: %v", from, err)
	}
	s.expect(primaryName, "a")
}

// A read that fails for want of its server goes on to the next, and nothing else
// does.
func TestReadsThatGoElsewhere(t *testing.T) {
	for name, tc := range map[string]struct {
		replies []reply // of the first replica
		want    []string
		err     error
	}{
		"unreachable":             {[]reply{{err: errUnreachable}}, []string{"a", "b"}, nil},
		"lost at once":            {[]reply{{err: errLost}}, []string{"a", "b"}, nil},
		"lost before a row":       {[]reply{{late: errLost}}, []string{"a", "b"}, nil},
		"lost behind a row":       {[]reply{{rows: 1, late: errLost}}, []string{"a", "b"}, nil},
		"shut down":               {[]reply{{late: pgError("57P01")}}, []string{"a", "b"}, nil},
		"in the way of replay":    {[]reply{{late: errConflict}}, []string{"a", "b"}, nil},
		"a deadlock with replay":  {[]reply{{err: pgError("40P01")}}, []string{"a", "b"}, nil},
		"full":                    {[]reply{{err: providers.ErrPoolExhausted}}, []string{"a", "b"}, nil},
		"closed":                  {[]reply{{err: providers.ErrPoolClosed}}, []string{"a", "b"}, nil},
		"behind":                  {[]reply{{err: providers.ErrBehind}}, []string{"a", "b"}, nil},
		"a write":                 {[]reply{{late: errReadOnly}}, []string{"a"}, errReadOnly},
		"its own fault":           {[]reply{{late: errUnique}}, []string{"a"}, errUnique},
		"its own fault, at once":  {[]reply{{err: errUnique}}, []string{"a"}, errUnique},
		"a deadlock of the chain": {[]reply{{err: providers.ErrNestedAcquire}}, []string{"a"}, providers.ErrNestedAcquire},
		"no row":                  {[]reply{{}}, []string{"a"}, pgx.ErrNoRows},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, Options{}, "a", "b")
			s.pool("a").say(tc.replies...)
			from, err := read(providers.WithReadOnly(t.Context()), s, "select 1")
			if !errors.Is(err, tc.err) || tc.err == nil && (err != nil || from != "b") {
				t.Errorf("%s: %v", from, err)
			}
			s.expect(tc.want...)
			if n := s.inUse(); n != 0 {
				t.Errorf("%d in use", n)
			}
		})
	}
}

// A read whose context ends meanwhile does not go on, and its error says so.
func TestReadWhoseContextEndsMeanwhile(t *testing.T) {
	for name, behind := range map[string]reply{"at once": {err: providers.ErrBehind}, "late": {late: providers.ErrBehind}} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, Options{}, "a", "b")
			ctx, cancel := context.WithCancel(providers.WithReadOnly(t.Context()))
			defer cancel()
			behind.during = cancel
			s.pool("a").say(behind)
			_, err := read(ctx, s, "select 1")
			var limit *providers.TimeoutError
			if !errors.As(err, &limit) || !errors.Is(err, context.Canceled) || !errors.Is(err, providers.ErrBehind) {
				t.Errorf("%v", err)
			}
			if o := providers.OutcomeOf(err); o != providers.OutcomeNotSent {
				t.Errorf("outcome %s", o)
			}
			s.expect("a")
		})
	}
}

// Whatever reads, goes on: and in the end to the primary, or with an error.
func TestNoReplicaIsFit(t *testing.T) {
	for name, do := range map[string]func(context.Context, *Cluster) error{
		"query": func(ctx context.Context, c *Cluster) error {
			_, err := read(ctx, c, "select 1")
			return err
		},
		"exec": exec, "run": runExec, "rows": runQuery, "acquire": acquire, "batch": batch, "stream": stream, "copy": unload, "ping": ping,
		"begin": func(ctx context.Context, c *Cluster) error {
			_, err := c.Begin(ctx, providers.TxOptions{Access: providers.ReadOnly})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, Options{}, "a", "b")
			for _, replica := range s.names {
				s.pool(replica).always = &reply{err: errUnreachable}
			}
			if err := do(providers.WithReadOnly(t.Context()), s.Cluster); err != nil {
				t.Error(err)
			}
			s.expect("a", "b", primaryName)

			s.opts.Fallback = FallbackError
			err := do(providers.WithReadOnly(t.Context()), s.Cluster)
			var none *NoReplicaError
			if !errors.Is(err, ErrNoReplica) || !errors.As(err, &none) || len(none.Servers) == 0 || !errors.Is(err, providers.ErrUnreachable) {
				t.Errorf("%v", err)
			}
			if providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Errorf("outcome %s", providers.OutcomeOf(err))
			}
			if got := s.went(); slices.Contains(got, primaryName) || len(got) != 2 {
				t.Errorf("went to %q", got)
			}
		})
	}
}

// Rows of which one was handed out end with the error, unless their reader begins
// again.
func TestRowsThatBegan(t *testing.T) {
	s := newStage(t, Options{}, "a", "b")
	s.pool("a").say(reply{rows: 2, late: errLost})
	ctx := providers.WithReadOnly(t.Context())
	rows, err := s.Query(ctx, "select 1")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for rows.Next() {
		n++
	}
	if n != 2 || !errors.Is(rows.Err(), errLost) {
		t.Errorf("%d rows: %v", n, rows.Err())
	}
	rows.Close() // does nothing
	s.expect("a")
	if !rows.(interface{ Restart() bool }).Restart() {
		t.Fatal("it did not restart")
	}
	var from string
	if err := providers.ScanFirst(rows, []any{&from}); err != nil || from != "b" {
		t.Errorf("%s: %v", from, err)
	}
	if rows.(interface{ Restart() bool }).Restart() {
		t.Error("it restarted for no reason")
	}
	if n := s.inUse(); n != 0 {
		t.Errorf("%d in use", n)
	}
}

// What is not read to its end, or not at all, gives back what it holds, and closing
// finds out how it ended.
func TestRowsThatAreLeft(t *testing.T) {
	s := newStage(t, Options{}, "a", "b")
	ctx := providers.WithReadOnly(t.Context())
	s.pool("a").say(reply{late: errLost}, reply{rows: 5})
	rows, err := s.Query(ctx, "select 1")
	if err != nil {
		t.Fatal(err)
	}
	rows.Close()
	if rows.Err() != nil {
		t.Error(rows.Err())
	}
	s.expect("a", "b")
	rows, err = s.Query(ctx, "select 1")
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	if n := s.inUse(); n != 1 {
		t.Errorf("%d in use", n)
	}
	rows.(interface{ Abandon() }).Abandon()
	if rows.Err() != nil || s.inUse() != 0 {
		t.Errorf("%v, %d in use", rows.Err(), s.inUse())
	}
}

// A context that has ended is sent nowhere twice, and a closed handle refuses.
func TestDeadContextAndClosedHandle(t *testing.T) {
	s := newStage(t, Options{}, "a", "b")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ctx := range []context.Context{ctx, providers.WithReadOnly(ctx)} {
		s.went()
		if _, err := read(ctx, s, "select 1"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if n := len(s.went()); n > 1 {
			t.Errorf("%d attempts", n)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, fallback := range []Fallback{FallbackPrimary, FallbackError} {
		s.opts.Fallback = fallback
		for _, ctx := range []context.Context{t.Context(), providers.WithReadOnly(t.Context())} {
			if _, err := read(ctx, s, "select 1"); !errors.Is(err, providers.ErrPoolClosed) {
				t.Errorf("%s: %v", fallback, err)
			}
			if err := acquire(ctx, s.Cluster); !errors.Is(err, providers.ErrPoolClosed) {
				t.Errorf("%s: %v", fallback, err)
			}
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Reads spread as the strategy says, also one whose index is out of range.
func TestStrategyIsAsked(t *testing.T) {
	s := newStage(t, Options{}, "a", "b", "c")
	ctx := providers.WithReadOnly(t.Context())
	for range 6 {
		if _, err := read(ctx, s, "select 1"); err != nil {
			t.Fatal(err)
		}
	}
	s.expect("a", "b", "c", "a", "b", "c")
	s.opts.Strategy = chooser(func(replicas []*Replica) int { return len(replicas) })
	if _, err := read(ctx, s, "select 1"); err != nil {
		t.Fatal(err)
	}
	s.opts.Strategy = chooser(func([]*Replica) int { return -1 })
	if _, err := read(ctx, s, "select 1"); err != nil {
		t.Fatal(err)
	}
	s.expect("a", "a")
	s.opts.Strategy = chooser(func(replicas []*Replica) int { return len(replicas) - 1 })
	s.replace(func(v *view) { v.replicas = v.replicas[:2] })
	if _, err := read(ctx, s, "select 1"); err != nil {
		t.Fatal(err)
	}
	s.expect("b")
}

type chooser func(replicas []*Replica) int

func (c chooser) Choose(replicas []*Replica) int { return c(replicas) }
