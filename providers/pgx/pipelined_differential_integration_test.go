package pgx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

const mixedSchema = `
	create table items (id bigint primary key, owner int not null, name text, price numeric, tags text[], at timestamptz,
		doc jsonb, qty int check (qty >= 0));
	create table late (n bigint unique deferrable initially deferred);
	create function boom(n int) returns int language plpgsql as $$ begin raise exception 'boom %', n using errcode = 'P0042'; end $$`

// mixed is a statement of the differential test.
type mixed struct {
	sql  string
	args []any
	read bool
	exec bool
}

// draw makes one of every kind of statement at random. Each worker has its own
// keys, so its results do not depend on what others do at the same time.
func draw(r *rand.Rand, worker int) mixed {
	id := int64(worker*1000 + r.IntN(20))
	text := strings.Repeat("é", r.IntN(50))
	switch r.IntN(20) {
	case 0, 1, 2:
		return mixed{sql: `select * from items where id = $1`, args: []any{id}, read: true}
	case 3:
		return mixed{sql: `select id, name, tags, doc from items where owner = $1 order by id`, args: []any{worker}, read: true}
	case 4:
		return mixed{sql: `select n, n::text, null::int, array[n, null, n + 1], repeat('x', n) from generate_series(1, $1::int) n`, args: []any{r.IntN(200)}, read: true}
	case 5:
		return mixed{sql: `select repeat('x', $1::int)`, args: []any{r.IntN(600_000)}, read: true}
	case 6, 7:
		return mixed{
			sql:  `insert into items values ($1, $2, $3, $4::text::numeric, $5, '2026-01-02 03:04:05+00', $6, $7) on conflict (id) do update set qty = items.qty + 1 returning *`,
			args: []any{id, worker, text, "1.50", []string{text, "b"}, map[string]any{"a": 1}, r.IntN(5)},
		}
	case 8:
		return mixed{sql: `insert into items (id, owner, qty) values ($1, $2, $3)`, args: []any{id, worker, r.IntN(3) - 1}, exec: true}
	case 9:
		return mixed{sql: `update items set name = $3, qty = qty - 2 where id = $1 and owner = $2 returning id, qty`, args: []any{id, worker, &text}}
	case 10:
		return mixed{sql: `delete from items where id = $1`, args: []any{id}, exec: true}
	case 11:
		return mixed{sql: `select 10 / ($1::int - n) from generate_series(1, 5) n`, args: []any{r.IntN(8)}, read: r.IntN(2) == 0}
	case 12:
		return mixed{sql: `select $1::text::int`, args: []any{[]string{"12", "no number"}[r.IntN(2)]}, read: r.IntN(2) == 0}
	case 13:
		return mixed{sql: []string{`selec 1`, `select 1 from nowhere`, `select nothing from items`, `select 1; select 2`, ``}[r.IntN(5)], read: r.IntN(2) == 0}
	case 14:
		return mixed{sql: `select $1::int + $2::int`, args: [][]any{{1}, {1, 2, 3}, {"x", 2}, {struct{}{}, 1}, {nil, 2}}[r.IntN(5)], read: true}
	case 15:
		return mixed{sql: `select boom($1)`, args: []any{7}, read: r.IntN(2) == 0}
	case 16:
		return mixed{sql: `insert into late values ($1), ($1)`, args: []any{id}, exec: true}
	case 17:
		return mixed{sql: `with gone as (delete from items where id = $1 returning id) select count(*) from gone`, args: []any{id}}
	case 18:
		return mixed{sql: `select count(*) from items where owner = @owner`, args: []any{pgx.NamedArgs{"owner": worker}}, read: true}
	default:
		return mixed{sql: `values ($1::text), ($2), (null)`, args: []any{text, "\x00"[:r.IntN(2)]}, read: true}
	}
}

// answer is all that a statement came to.
type answer struct {
	Columns []string
	Rows    [][]any
	Tag     string
	Code    string
	Says    string
	Failed  bool
}

func ask(ctx context.Context, q providers.Querier, m mixed) answer {
	a, _ := asked(ctx, q, m)
	return a
}

// asked is ask with the error itself.
func asked(ctx context.Context, q providers.Querier, m mixed) (answer, error) {
	if m.exec {
		tag, err := q.Exec(ctx, m.sql, m.args...)
		return finish(answer{Tag: tag.String()}, err), err
	}
	rows, err := q.Query(ctx, m.sql, m.args...)
	if err != nil {
		return finish(answer{}, err), err
	}
	defer rows.Close()
	var a answer
	for _, f := range rows.FieldDescriptions() { // with pgx, not once the rows are closed
		a.Columns = append(a.Columns, fmt.Sprint(f.Name, f.DataTypeOID, f.TypeModifier, f.Format))
	}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return finish(a, err), err
		}
		a.Rows = append(a.Rows, values)
	}
	a.Tag = rows.CommandTag().String()
	return finish(a, rows.Err()), rows.Err()
}

func finish(a answer, err error) answer {
	if err != nil {
		a.Failed, a.Tag, a.Columns = true, "", nil // which pgx keeps or not, as it comes
		var pg *pgconn.PgError
		if errors.As(err, &pg) {
			a.Code = pg.Code
			a.Says = fmt.Sprint(pg.Severity, pg.Message, pg.Detail, pg.Hint, pg.Where, pg.TableName, pg.ColumnName, pg.ConstraintName, pg.Position)
		}
	}
	return a
}

func TestPipelinedAgreesWithPgx(t *testing.T) {
	template := pgtest.NewDB(t)
	ours := openPool(t, providers.Config{
		DSN: template, Pool: providers.PoolStrategy{MaxSize: 3},
		Pipelining: &providers.Pipelining{Connections: 2, ReadConnections: 2, MaxResultBytes: 64 << 10, SlowAfter: time.Minute},
	})
	theirs, err := pgxpool.New(t.Context(), pgtest.NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	mustExec(t, ours, mixedSchema)
	mustExec(t, theirs, mixedSchema)
	const workers, statements = 24, 250
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 42))
			for i := range statements {
				m := draw(r, w)
				ctx := t.Context()
				if m.read {
					ctx = providers.WithReadOnly(ctx)
				}
				want := ask(t.Context(), theirs, m)
				if got := ask(ctx, ours, m); !reflect.DeepEqual(got, want) {
					t.Errorf("worker %d, statement %d: %s %.80v\n got %.300v\nwant %.300v", w, i, m.sql, m.args, got, want)
					return
				}
			}
		})
	}
	all.Wait()
	for _, sql := range []string{`select * from items order by id`, `select * from late order by n`} {
		m := mixed{sql: sql}
		if got, want := ask(t.Context(), ours, m), ask(t.Context(), theirs, m); !reflect.DeepEqual(got, want) {
			t.Errorf("%s differs afterwards", sql)
		}
	}
	s := ours.Stats().Pipeline
	if s.Statements == 0 || s.Large == 0 {
		t.Errorf("it proved little: %+v", s)
	}
	t.Logf("%+v", *s)
}
