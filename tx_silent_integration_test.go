package pgkeel_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest/fault"
)

// A server that does not answer keeps a caller for a little longer than its context,
// whatever it does not answer to.
func TestTxOnASilentServer(t *testing.T) {
	const limit, most = 200 * time.Millisecond, 4 * time.Second
	for what, match := range map[string]fault.Match{
		"begin": fault.SQL("begin"), "a statement": fault.SQL("insert into t"), "rollback": fault.SQL("rollback"),
	} {
		for name, action := range map[string]fault.Action{"no reply": fault.SwallowReply, "no line": fault.BlackHole} {
			for _, exactly := range []bool{false, true} {
				t.Run(what+", "+name, func(t *testing.T) {
					t.Parallel()
					p := fault.New(t, newTableDB(t), fault.On(match, action))
					db := openDSN(t, p.DSN(), pgkeel.WithLogger(new(journal).logger()))
					defer p.Close()
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					begun := time.Now()
					err := db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
						return errors.Join(insert(ctx, tx, 1), errMine)
					}, pgkeel.TxOptions{ExactlyOnce: exactly})
					if took := time.Since(begun); took > most || pgkeel.OutcomeOf(err) != pgkeel.OutcomeRolledBack && pgkeel.OutcomeOf(err) != pgkeel.OutcomeNotSent {
						t.Errorf("after %s: %v", took, err)
					}
				})
			}
		}
	}
}
