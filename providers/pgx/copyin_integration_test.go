package pgx

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// A COPY that waits for data hears of no request to cancel, so it is found out
// however it is written.
func TestCopyFromTheClientIsNoStatement(t *testing.T) {
	onEach(t, providers.Config{}, "create table copied (n int)", func(t *testing.T, _ *Pool, q runner) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for _, sql := range []string{
			"copy copied from stdin",
			"\n\tCOPY copied FROM STDIN WITH (format csv)",
			"-- rows\ncopy copied from stdin",
			"/* a /* nested */ comment */ copy copied (n) from stdin",
			"select 1; copy copied from stdin",
			`copy "from" from stdin`,
		} {
			refused := func(how string, err error) {
				t.Helper()
				if !errors.Is(err, errCopyIn) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
					t.Errorf("%s of %q: %v", how, sql, err)
				}
			}
			_, err := q.Exec(ctx, sql)
			refused("Exec", err)
			rows, err := q.Query(ctx, sql)
			refused("Query", err)
			rows.Close()
			refused("QueryRow", q.QueryRow(ctx, sql).Scan(new(int)))
			refused("Run", q.Run(ctx, marked(providers.CallExec, sql)))
		}
		for _, sql := range []string{
			"select 'copy copied from stdin'",
			"/* copy copied from stdin */ select 'x'",
			`select 1 as "stdin"; select 2 as copy`,
			"select $$copy copied from stdin$$",
		} {
			if _, err := q.Exec(ctx, sql); err != nil {
				t.Errorf("%q: %v", sql, err)
			}
		}
	})
}

func TestCopyFromTheClientDoesNotBeginATransaction(t *testing.T) {
	p := balanced(t, providers.Config{})
	mustExec(t, p, "create table copied (n int)")
	first := providers.Statement{SQL: "-- rows\ncopy copied from stdin"}
	_, err := p.BeginWith(t.Context(), providers.TxOptions{}, first)
	if !errors.Is(err, errCopyIn) {
		t.Error(err)
	}
}
