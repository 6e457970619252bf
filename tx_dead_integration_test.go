package pgkeel_test

import (
	"context"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/outcome"
	"github.com/pgkeel/pgkeel/pgtest"
)

// After a restart every connection of the pool is dead. None of them is an attempt of a
// transaction, however few it has.
func TestTxAfterARestart(t *testing.T) {
	const size = 10
	nodes := pgtest.New(t, pgtest.Options{})
	node := nodes.Primary()
	admin := openOn(t, node.DSN(""), one())
	mustExec(t, admin, "create table t (n int); "+outcome.DDL)
	for name, kill := range map[string]func(){
		"restarted":  func() { noError(t, node.Restart(t.Context())) },
		"crashed":    func() { noError(t, node.Kill()); noError(t, node.Start(t.Context())) },
		"terminated": func() { terminateAll(t, admin) },
	} {
		for _, exactly := range []bool{false, true} {
			db := openOn(t, node.DSN(""), pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: size, InitialSize: size}))
			kill()
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error { return insert(ctx, tx, 1) },
						pgkeel.TxOptions{MaxAttempts: 1, ExactlyOnce: exactly})
					if err != nil {
						t.Errorf("%s, exactly once %t: %v", name, exactly, err)
					}
				})
			}
			all.Wait()
		}
		for ran := false; !ran; { // that of the administrator is dead as well
			_, err := admin.Exec(t.Context(), "select 1")
			ran = err == nil
		}
	}
}

func terminateAll(t *testing.T, admin *pgkeel.DB) {
	t.Helper()
	mustExec(t, admin, "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()")
}
