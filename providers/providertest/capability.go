package providertest

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

var capabilityTests = []test{
	{name: "Batcher", run: testBatcher},
	{name: "BatchThatFails", run: testBatchFails},
	{name: "Copier", run: testCopier},
	{name: "RawCopier", run: testRawCopier},
	{name: "Listener", run: testListener, session: true},
	{name: "ListenersEnd", run: testListenersEnd, session: true},
	{name: "Unwrapper", run: testUnwrapper},
}

// claims runs a test for each pool, connection and transaction whose type
// claims the capability C.
func claims[C any](t *testing.T, s suite, setup string, test func(t *testing.T, capable C, q querier)) {
	t.Helper()
	s.onEach(t, setup, func(t *testing.T, q querier) {
		if capable, ok := q.(C); ok {
			test(t, capable, q)
		}
	})
}

func testBatcher(t *testing.T, s suite) {
	claims(t, s, table, func(t *testing.T, b providers.Batcher, q querier) {
		batch := &pgx.Batch{}
		batch.Queue("insert into t values ($1), (2)", 1)
		batch.Queue("select sum(n) from t")
		batch.Queue("select n from t order by n")
		results := b.SendBatch(t.Context(), batch)
		if tag, err := results.Exec(); err != nil || tag.RowsAffected() != 2 {
			t.Errorf("%q, %v", tag, err)
		}
		var sum int
		if err := results.QueryRow().Scan(&sum); err != nil || sum != 3 {
			t.Errorf("%d, %v", sum, err)
		}
		rows, err := results.Query()
		if err != nil {
			t.Error(err)
		}
		if numbers, err := pgx.CollectRows(rows, pgx.RowTo[int]); err != nil || len(numbers) != 2 {
			t.Errorf("%d, %v", numbers, err)
		}
		for range 2 {
			if err := results.Close(); err != nil {
				t.Error(err)
			}
		}
		if n := traces(t, q); n != 2 {
			t.Errorf("%d rows", n)
		}
		wantOutcome(t, "a dead context", b.SendBatch(ended(), batch).Close(), providers.OutcomeNotSent)
	})
}

func testBatchFails(t *testing.T, s suite) {
	claims(t, s, table, func(t *testing.T, b providers.Batcher, q querier) {
		batch := &pgx.Batch{}
		batch.Queue("insert into t values (1)")
		batch.Queue("select 1 / 0")
		batch.Queue("insert into t values (2)")
		wantCode(t, "batch", b.SendBatch(t.Context(), batch).Close(), "22012")
		if _, inTx := q.(providers.Tx); inTx {
			wantCode(t, "the transaction", execError(t, q, "select 1"), "25P02")
		} else if n := traces(t, q); n != 0 {
			t.Errorf("%d rows: a batch is one transaction", n)
		}
	})
}

func testCopier(t *testing.T, s suite) {
	claims(t, s, "create schema a; create table a.t (n int check (n < 100), s text)", func(t *testing.T, c providers.Copier, q querier) {
		into, columns := pgx.Identifier{"a", "t"}, []string{"s", "n"}
		n, err := c.CopyFrom(t.Context(), into, columns, pgx.CopyFromRows([][]any{{"x", 1}, {nil, 2}, {"tab\t\\N", 3}}))
		if err != nil || n != 3 {
			t.Errorf("%d, %v", n, err)
		}
		if got := value[int](t, q, "select sum(n) from a.t where s is null or s in ('x', E'tab\\t\\\\N')"); got != 6 {
			t.Errorf("%d", got)
		}
		_, err = c.CopyFrom(ended(), into, columns, pgx.CopyFromRows(nil))
		wantOutcome(t, "a dead context", err, providers.OutcomeNotSent)
		_, err = c.CopyFrom(t.Context(), into, columns, pgx.CopyFromRows([][]any{{"x", 4}, {"y", 100}}))
		wantCode(t, "a bad row", err, "23514")
		if _, inTx := q.(providers.Tx); !inTx && value[int](t, q, "select max(n) from a.t") != 3 {
			t.Error("half of a COPY is there")
		}
	})
}

func testUnwrapper(t *testing.T, s suite) {
	p := s.open(t, 1)
	unwrapper, ok := p.(providers.Unwrapper)
	if !ok {
		return // its type says so
	}
	before := p.Stats().Acquires
	c, err := unwrapper.Unwrap().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st := p.Stats(); st.InUse != 1 || st.Acquires != before+1 {
		t.Errorf("what was taken past the provider is not counted: %+v", st)
	}
	c.Release()
}
