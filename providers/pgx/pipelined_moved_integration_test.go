package pgx

import (
	"context"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// TestPipelinedServerWorksForNobody has the server run a read that was moved elsewhere,
// and nothing else. The connection is not taken for an idle one, and the server is
// stopped although nobody asks anything of it any more.
func TestPipelinedServerWorksForNobody(t *testing.T) {
	p := pipelinedPool(t, providers.Config{Pool: providers.PoolStrategy{MaxSize: 10}})
	observer := openPool(t, providers.Config{DSN: p.cfg.DSN, Pool: providers.PoolStrategy{MaxSize: 1}})
	ctx := providers.WithReadOnly(t.Context())
	const known = "select 1, pg_sleep($1)"
	ask := func(ctx context.Context, seconds float64) error {
		_, err := p.Exec(ctx, known, seconds)
		return err
	}
	sleeping := func() int {
		return value[int](t, observer, `select count(*)::int from pg_stat_activity
			where datname = current_database() and wait_event = 'PgSleep'`)
	}
	if err := ask(ctx, 0); err != nil {
		t.Fatal(err)
	}

	var all sync.WaitGroup
	defer all.Wait()
	long, wake := context.WithCancel(ctx)
	defer wake()
	moved := func() int64 { return p.Stats().Pipeline.Moved }
	elsewhere := 0
	for ; moved() == 0; elsewhere++ { // on a busy machine the second may come too late to be sent behind the first
		ahead := make(chan error)
		flushes := p.Stats().Pipeline.Flushes
		go func() { ahead <- ask(ctx, 0.5) }()
		eventually(t, "something slow was sent", func() bool { return p.Stats().Pipeline.Flushes > flushes })
		all.Go(func() { _ = ask(long, 1000) })
		if err := <-ahead; err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the shared connection sleeps for nobody", func() bool { return sleeping() == elsewhere+1 })

	if err := ask(ctx, 0); err != nil { // the first to find out
		t.Fatal(err)
	}
	before := moved()
	for range 20 {
		if err := ask(ctx, 0); err != nil {
			t.Fatal(err)
		}
	}
	if more := moved() - before; more > 0 {
		t.Errorf("%d of 20 reads were sent behind it", more)
	}
	eventually(t, "it sleeps no more", func() bool { return sleeping() == elsewhere })
}
