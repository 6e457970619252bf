package bulk

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/providers"
)

type stock struct {
	K int
	V string
	N int
}

const stockTable = `create table stock (k int primary key, v text, n int default 7);
	insert into stock values (1, 'old', 1), (2, 'old', 2), (3, 'old', 3)`

var stockColumns = []string{"k", "v", "n"}

func stocks(v string, keys ...int) Source {
	all := make([]stock, len(keys))
	for i, k := range keys {
		all[i] = stock{k, v, 10 * (i + 1)}
	}
	return FromSlice(all)
}

func stockInto() Into { return Into{Table: table("public", "stock"), Columns: stockColumns} }

const stockSQL = `select coalesce(string_agg(concat_ws(' ', k, v, n), ', ' order by k, v), '') from stock`

func TestCopyUpsert(t *testing.T) {
	for name, c := range map[string]struct {
		u    Upsert
		src  Source
		want UpsertResult
		rows string
	}{
		"insert and update": {
			Upsert{Conflict: []string{"k"}},
			stocks("new", 2, 4),
			UpsertResult{2, 2, 1, 1},
			"1 old 1, 2 new 10, 3 old 3, 4 new 20",
		},
		"by constraint": {
			Upsert{Constraint: "stock_pkey", Update: []string{"v"}},
			stocks("new", 2, 4),
			UpsertResult{2, 2, 1, 1},
			"1 old 1, 2 new 2, 3 old 3, 4 new 20",
		},
		"some columns": {
			Upsert{Conflict: []string{"k"}, Update: []string{"n"}},
			stocks("new", 1, 5),
			UpsertResult{2, 2, 1, 1},
			"1 old 10, 2 old 2, 3 old 3, 5 new 20",
		},
		"do nothing": {
			Upsert{Conflict: []string{"k"}, DoNothing: true},
			stocks("new", 1, 2, 6, 6),
			UpsertResult{4, 1, 1, 0},
			"1 old 1, 2 old 2, 3 old 3, 6 new 30",
		},
		"update where": {
			Upsert{Conflict: []string{"k"}, UpdateWhere: "stock.n < 2 -- small"},
			stocks("new", 1, 2),
			UpsertResult{2, 1, 0, 1},
			"1 new 10, 2 old 2, 3 old 3",
		},
		"last wins": {
			Upsert{Conflict: []string{"k"}, LastWins: true},
			stocks("new", 9, 1, 9, 1, 9),
			UpsertResult{5, 2, 1, 1},
			"1 new 40, 2 old 2, 3 old 3, 9 new 50",
		},
		"nothing": {Upsert{Conflict: []string{"k"}}, stocks("new"), UpsertResult{}, "1 old 1, 2 old 2, 3 old 3"},
		"a reader": {
			Upsert{Conflict: []string{"k"}},
			FromReader(strings.NewReader("k,v,n\n3,csv,1\n4,csv,\n"), CSV{Header: HeaderMatch}),
			UpsertResult{2, 2, 1, 1},
			"1 old 1, 2 old 2, 3 csv 1, 4 csv",
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := openDB(t, stockTable)
			c.u.Into = stockInto()
			res, err := CopyUpsert(t.Context(), db, c.u, c.src)
			if err != nil || res != c.want {
				t.Errorf("%+v instead of %+v, %v", res, c.want, err)
			}
			expect(t, db, c.rows, stockSQL)
			expect(t, db, 0, `select count(*)::int from pg_class where relname like 'pgkeel%'`)
		})
	}
}

func TestTrap29UpsertsShareATransaction(t *testing.T) {
	db := openDB(t, stockTable)
	err := db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
		for _, v := range []string{"one", "two"} { // the second finds the name of the first free
			if _, err := CopyUpsertTx(ctx, tx, Upsert{Into: stockInto(), Conflict: []string{"k"}}, stocks(v, 1, 4)); err != nil {
				return err
			}
		}
		err := tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := CopyUpsertTx(ctx, tx, Upsert{Into: stockInto(), Conflict: []string{"k"}}, stocks("bad", 1, 1))
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "LastWins") {
			t.Errorf("%v", err)
		}
		if _, err := CopyUpsertTx(ctx, tx, Upsert{Into: stockInto(), Conflict: []string{"k"}}, stocks("three", 5)); err != nil {
			return err
		}
		// A savepoint is a transaction as well, and so is the table behind a path.
		_, err = tx.Exec(ctx, `select 1 from stock where k = 5 and v = 'three'`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, db, "1 two 10, 2 old 2, 3 old 3, 4 two 20, 5 three 10", stockSQL)
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if res, err := CopyUpsert(t.Context(), conn, Upsert{Into: stockInto(), Conflict: []string{"k"}}, stocks("conn", 5)); err != nil || res.Updated != 1 {
		t.Errorf("%+v %v", res, err)
	}
}

func TestUpsertOfNULLKeysAndPartialIndexes(t *testing.T) {
	db := openDB(t, `create table part (a int, b int, v text); create unique index on part (a, b) where v <> 'gone'`)
	into := Into{Table: table("part"), Columns: []string{"a", "b", "v"}}
	u := Upsert{Into: into, Conflict: []string{"a", "b"}, ConflictWhere: "v <> 'gone'", LastWins: true}
	data := func() Source { return FromSlice([][]any{{1, nil, "x"}, {1, nil, "y"}, {1, 2, "x"}, {1, 2, "y"}}) }
	if res, err := CopyUpsert(t.Context(), db, u, data()); err != nil || res != (UpsertResult{4, 3, 3, 0}) {
		t.Errorf("%+v %v", res, err)
	}
	if res, err := CopyUpsert(t.Context(), db, u, data()); err != nil || res != (UpsertResult{4, 3, 2, 1}) {
		t.Errorf("%+v %v", res, err)
	}
	expect(t, db, 5, `select count(*)::int from part`)
}

func TestUpsertIntoAPartitionedTable(t *testing.T) {
	db := openDB(t, `create table p (k int primary key, v text) partition by range (k);
		create table p1 partition of p for values from (0) to (10); create table p2 partition of p for values from (10) to (20)`)
	u := Upsert{Into: Into{Table: table("p"), Columns: []string{"k", "v"}}, Conflict: []string{"k"}}
	if res, err := CopyUpsert(t.Context(), db, u, FromSlice([][]any{{1, "x"}, {11, "x"}})); err != nil || res != (UpsertResult{2, 2, -1, -1}) {
		t.Errorf("%+v %v", res, err)
	}
	if res, err := CopyUpsert(t.Context(), db, u, FromSlice([][]any{{1, "y"}, {12, "y"}})); err != nil || res != (UpsertResult{2, 2, -1, -1}) {
		t.Errorf("%+v %v", res, err)
	}
	expect(t, db, "1 y, 11 x, 12 y", `select string_agg(k || ' ' || v, ', ' order by k) from p`)
	u.DoNothing = true
	if res, err := CopyUpsert(t.Context(), db, u, FromSlice([][]any{{1, "z"}, {13, "z"}})); err != nil || res != (UpsertResult{2, 1, 1, 0}) {
		t.Errorf("%+v %v", res, err)
	}
}

func TestUpsertFails(t *testing.T) {
	db := openDB(t, stockTable+`; alter table stock add check (n < 1000)`)
	ok := Upsert{Into: stockInto(), Conflict: []string{"k"}}
	for name, c := range map[string]struct {
		change func(u *Upsert)
		src    Source
		want   string
	}{
		"no such table":  {func(u *Upsert) { u.Into.Table = table("missing") }, stocks("x", 1), "42P01"},
		"no such index":  {func(u *Upsert) { u.Conflict = []string{"n"} }, stocks("x", 1), "42P10"},
		"bad data":       {func(*Upsert) {}, FromReader(strings.NewReader("1\tx\t1\nsecret\tx\t1\n"), Text{}), `copy of "public"."stock": line 2, column "k"`},
		"check":          {func(*Upsert) {}, FromSlice([]stock{{1, "x", 1000}}), "23514"},
		"duplicates":     {func(*Upsert) {}, stocks("x", 1, 1), "set LastWins"},
		"iterator":       {func(*Upsert) {}, FromSeq2(func(yield func(stock, error) bool) { yield(stock{}, errOfCaller) }), errOfCaller.Error()},
		"dotted table":   {func(u *Upsert) { u.Into.Table = table("public.stock") }, stocks("x", 1), `pgx.Identifier{"public", "stock"}`},
		"failing commit": {func(u *Upsert) { u.Into.Table = table("late") }, stocks("x", 1), "23514"},
	} {
		mustExec(t, db, `drop table if exists late; create table late (like stock including indexes);
			create or replace function late() returns trigger language plpgsql as $$ begin raise check_violation; end $$;
			create constraint trigger late after insert on late deferrable initially deferred for each row execute function late()`)
		u := ok
		c.change(&u)
		res, err := CopyUpsert(t.Context(), db, u, c.src)
		if err == nil || !strings.Contains(err.Error(), c.want) || res != (UpsertResult{}) || providers.OutcomeOf(err) != providers.OutcomeRolledBack {
			t.Errorf("%s: %+v, %v (%s)", name, res, err, providers.OutcomeOf(err))
		}
		expect(t, db, "1 old 1, 2 old 2, 3 old 3", stockSQL)
	}
	if s := db.Stats(); s.InUse != 0 {
		t.Errorf("%+v", s)
	}
}

func TestUpsertFaults(t *testing.T) {
	into := stockInto()
	for name, c := range map[string]struct {
		u    Upsert
		want string
	}{
		"nothing":    {Upsert{}, "Into.Table Upsert.Into.Columns Upsert.Conflict Upsert.Update Into.Columns"},
		"both":       {Upsert{Into: into, Conflict: []string{"k"}, Constraint: "x"}, "Upsert.Conflict"},
		"others":     {Upsert{Into: into, Conflict: []string{"x"}, Update: []string{"y"}}, "Upsert.Conflict Upsert.Update"},
		"constraint": {Upsert{Into: into, Constraint: strings.Repeat("x", 64), ConflictWhere: "a", LastWins: true}, "Upsert.Constraint Upsert.ConflictWhere Upsert.LastWins"},
		"do nothing": {Upsert{Into: into, Conflict: []string{"k"}, DoNothing: true, Update: []string{"v"}, UpdateWhere: "x", LastWins: true}, "Upsert.Update Upsert.UpdateWhere Upsert.LastWins"},
		"no updates": {Upsert{Into: Into{Table: table("t"), Columns: []string{"k"}}, Conflict: []string{"k"}}, "Upsert.Update"},
		"blank":      {Upsert{Into: into, Conflict: []string{"k"}, UpdateWhere: " "}, "Upsert.UpdateWhere"},
		"NUL":        {Upsert{Into: into, Conflict: []string{"k"}, ConflictWhere: "\x00"}, "Upsert.ConflictWhere"},
	} {
		if got := faultsOf(c.u.check(false, stocks("x"))); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	u := Upsert{Into: into, Conflict: []string{"k"}}
	u.Into.Freeze = true
	if got := faultsOf(u.check(false, FromReader(strings.NewReader(""), CSV{}))); got != "Upsert.Into.Freeze" {
		t.Errorf("%q", got)
	}
}

func TestUpsertOfAKilledConnection(t *testing.T) {
	db := openDB(t, stockTable)
	killer := openOn(t, value[string](t, db, `select 'postgres://postgres@'||current_setting('listen_addresses')||':'||current_setting('port')||'/'||current_database()`), "")
	src := FromSeq2(func(yield func(stock, error) bool) {
		for i := range 100_000 {
			if i == 50_000 {
				_, _ = killer.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'copy %pgkeel_upsert%' and pid <> pg_backend_pid()`)
			}
			if !yield(stock{i, "x", 1}, nil) {
				return
			}
		}
	})
	_, err := CopyUpsert(t.Context(), db, Upsert{Into: stockInto(), Conflict: []string{"k"}}, src)
	var source *SourceError
	if err == nil || errors.As(err, &source) {
		t.Errorf("%v", err)
	}
	expect(t, db, "1 old 1, 2 old 2, 3 old 3", stockSQL)
}
