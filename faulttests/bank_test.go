package faulttests

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
)

// TestBank moves money while faults happen, each transfer exactly once, and holds
// what each call said against the ledger.
func TestBank(t *testing.T) {
	const tellers, accounts, wealth = 12, 20, 1000
	s := newStage(t, 1, true)
	s.sql(s.servers.Primary(),
		`create table accounts (id int primary key, balance bigint not null)`,
		fmt.Sprintf(`insert into accounts select i, %d from generate_series(1, %d) i`, wealth, accounts),
		// No constraint on transfer: what is there twice shall be seen.
		`create table ledger (entry bigserial primary key, transfer text not null, amount int not null)`)

	var b bank
	var stop atomic.Bool
	var work sync.WaitGroup
	for teller := range tellers {
		work.Go(func() {
			for i := 0; !stop.Load(); i++ {
				b.transfer(t.Context(), s.db, fmt.Sprintf("%d-%d", teller, i), teller%accounts+1, (teller+i*7+1)%accounts+1)
			}
		})
	}
	kinds := faults()
	made := map[string]int{}
	n := runs(t, 6)
	for i := range n {
		f := kinds[i%len(kinds)]
		if i%len(kinds) == 0 {
			s.random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
			f = kinds[0]
		}
		before := b.count(pgkeel.OutcomeCommitted)
		f.make(s)
		made[f.name]++
		s.waitFor("transfers go on after: "+f.name, func() bool { return b.count(pgkeel.OutcomeCommitted) > before+tellers })
	}
	stop.Store(true)
	work.Wait()
	for _, name := range slices.Sorted(maps.Keys(made)) {
		t.Logf("%d × %s", made[name], name)
	}
	b.audit(t, s, accounts*wealth)
}

// waitFor waits until what must come has come.
func (s *stage) waitFor(what string, holds func() bool) {
	s.t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	limit := time.After(60 * time.Second)
	for !holds() {
		select {
		case <-ticker.C:
		case <-limit:
			s.t.Fatalf("a minute is over and still not: %s", what)
		}
	}
}

// bank notes what each transfer was said to have become.
type bank struct {
	mu   sync.Mutex
	said map[string]pgkeel.Outcome
	ends [4]atomic.Int64
	errs map[string]int
}

func (b *bank) count(o pgkeel.Outcome) int { return int(b.ends[o].Load()) }

func (b *bank) transfer(ctx context.Context, db *pgkeel.DB, name string, from, to int) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if from > to {
		from, to = to, from // in one order, so that no two wait for each other
	}
	err := db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		if _, err := tx.Exec(ctx, `update accounts set balance = balance - 1 where id = $1`, from); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `insert into ledger (transfer, amount) values ($1, 1)`, name); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `update accounts set balance = balance + 1 where id = $1`, to)
		return err
	}, pgkeel.TxOptions{ExactlyOnce: true, MaxAttempts: 100, RetryBudget: 25 * time.Second})
	outcome := pgkeel.OutcomeOf(err)
	b.ends[outcome].Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.said == nil {
		b.said, b.errs = map[string]pgkeel.Outcome{}, map[string]int{}
	}
	b.said[name] = outcome
	if err != nil {
		b.errs[err.Error()]++
	}
}

// audit holds what was said against what is there.
func (b *bank) audit(t *testing.T, s *stage, want int64) {
	ctx := t.Context()
	sum, err := pgkeel.One[int64](ctx, s.db, `select sum(balance)::bigint from accounts`)
	if err != nil || sum != want {
		t.Errorf("the balances are %d, not %d: %v", sum, want, err)
	}
	type entry struct {
		Transfer string
		Times    int
	}
	entries, err := pgkeel.All[entry](ctx, s.db, `select transfer, count(*)::int as times from ledger group by transfer`)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]int{}
	for _, e := range entries {
		there[e.Transfer] = e.Times
	}
	var lost, twice, false0 int
	for name, outcome := range b.said {
		switch n := there[name]; {
		case n > 1:
			twice++
			t.Errorf("transfer %s, said to be %v, is there %d times", name, outcome, n)
		case outcome == pgkeel.OutcomeCommitted && n == 0:
			lost++
			t.Errorf("transfer %s was acknowledged and is lost", name)
		case outcome != pgkeel.OutcomeCommitted && outcome != pgkeel.OutcomeUnknown && n > 0:
			false0++
			t.Errorf("transfer %s was said to be %v and is there", name, outcome)
		}
		delete(there, name)
	}
	if len(there) > 0 {
		t.Errorf("%d transfers are there of which nobody was told", len(there))
	}
	t.Logf("%d transfers committed, %d rolled back, %d not sent, %d unknown; %d lost, %d twice, %d told wrongly",
		b.count(pgkeel.OutcomeCommitted), b.count(pgkeel.OutcomeRolledBack), b.count(pgkeel.OutcomeNotSent),
		b.count(pgkeel.OutcomeUnknown), lost, twice, false0)
	for _, text := range slices.Sorted(maps.Keys(b.errs)) {
		t.Logf("%d × %s", b.errs[text], text)
	}
}
