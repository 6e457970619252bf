package pgx

import (
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// Statements that wait at the server, as a commit does for its disk, do so beside each
// other on the pool's connections: one behind the other, all of them would wait for the
// sum. So does what is known to only read.
func TestPipelinedWaitingStatementsRunBeside(t *testing.T) {
	p := pipelinedPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 8}})
	mustExec(t, p, "create table t (n int); insert into t values (0)")
	for name, sql := range map[string]string{
		"writes": "insert into t select 1 from pg_sleep(0.005)", "reads": "select 1 from pg_sleep(0.005)",
	} {
		ctx := t.Context()
		if name == "reads" {
			ctx = providers.WithReadOnly(ctx)
		}
		before := p.Stats().Pipeline
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 20 {
					if _, err := p.Exec(ctx, sql); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		after := p.Stats().Pipeline
		if after.Slow == before.Slow || after.Statements == before.Statements {
			t.Errorf("%s: %d ran beside, %d on the shared connections", name, after.Slow-before.Slow, after.Statements-before.Statements)
		}
	}
	if n := value[int](t, p, "select count(*)::int from t"); n != 161 {
		t.Errorf("%d rows", n)
	}
}
