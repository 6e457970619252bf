package pgx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
	provider "github.com/pgkeel/pgkeel/providers/pgx"
)

func TestTrap17TypesBehindPgBouncer(t *testing.T) {
	pool := newPooler(t, 1).open(t, behind(3))
	at := time.Date(2024, 2, 29, 12, 30, 0, 123456000, time.UTC)
	number := 5
	for name, tc := range map[string]struct {
		sql       string
		arg, want any
	}{
		"smallint":        {`select $1::int2`, int16(-7), int16(-7)},
		"int":             {`select $1::int4 + 1`, int32(7), int32(8)},
		"bigint":          {`select $1::int8`, int64(1) << 60, int64(1) << 60},
		"double":          {`select $1::float8`, 1.5, 1.5},
		"boolean":         {`select not $1::bool`, true, false},
		"text":            {`select $1::text`, `it's "ü" \ $1`, `it's "ü" \ $1`},
		"empty text":      {`select $1::text`, "", ""},
		"bytea":           {`select $1::bytea`, []byte{0, 1, 255}, []byte{0, 1, 255}},
		"timestamptz":     {`select $1::timestamptz`, at, at},
		"int array":       {`select $1::int4[]`, []int32{1, -2, 3}, []int32{1, -2, 3}},
		"bigint array":    {`select array_append($1::int8[], 9)`, []int64{1}, []int64{1, 9}},
		"text array":      {`select $1::text[]`, []string{"a,b", `"c"`, "", "{}"}, []string{"a,b", `"c"`, "", "{}"}},
		"empty array":     {`select $1::text[]`, []string{}, []string{}},
		"any":             {`select count(*)::int from generate_series(1, 9) n where n = any($1::int[])`, []int32{2, 3, 99}, int(2)},
		"jsonb of text":   {`select $1::jsonb ->> 'a'`, `{"a": "b"}`, "b"},
		"jsonb of raw":    {`select $1::jsonb ->> 'a'`, json.RawMessage(`{"a": "b"}`), "b"},
		"jsonb as struct": {`select jsonb_build_object('A', $1::int)`, 3, struct{ A int }{3}},
		"pointer":         {`select $1::int4`, &number, &number},
		"null":            {`select $1::int4`, nil, (*int)(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			got := reflect.New(reflect.TypeOf(tc.want))
			if err := pool.QueryRow(t.Context(), tc.sql, tc.arg).Scan(got.Interface()); err != nil {
				t.Fatal(err)
			}
			if moment, ok := got.Elem().Interface().(time.Time); ok {
				got.Elem().Set(reflect.ValueOf(moment.UTC()))
			}
			if !reflect.DeepEqual(got.Elem().Interface(), tc.want) {
				t.Errorf("got %#v, want %#v", got.Elem().Interface(), tc.want)
			}
		})
	}
	whole(t, pool)
}

// TestTrap17TypesThatNeedTheirName: without a description from the server the
// driver knows an argument by its Go type alone.
func TestTrap17TypesThatNeedTheirName(t *testing.T) {
	p := newPooler(t, 1)
	const sql = `select $1::jsonb ->> 'a'`
	doc := map[string]any{"a": "b"}
	pool := p.open(t, behind(2))
	var got string
	if err := pool.QueryRow(t.Context(), sql, doc).Scan(&got); err == nil || !strings.Contains(err.Error(), "unknown type") {
		t.Errorf("a map without a name: %q, %v", got, err)
	}
	whole(t, pool)

	cfg := behind(2)
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterDefaultPgType(doc, "jsonb")
		return nil
	}
	if got := scalar[string](t, p.open(t, cfg), sql, doc); got != "b" {
		t.Errorf("got %q", got)
	}
}

// TestTrap17NoStatementHasAName: the same statements on many clients, each of
// which meets sessions on which others have run them.
func TestTrap17NoStatementHasAName(t *testing.T) {
	p := newPooler(t, 2)
	pool := p.open(t, behind(16))
	run(t, pool, `create table counted (n int)`)
	const callers, each = 24, 20
	errs := make(chan error, callers)
	for i := range callers {
		go func() {
			errs <- func() error {
				for n := range each {
					if err := mixed(t.Context(), pool, i, n); err != nil {
						return fmt.Errorf("caller %d, round %d: %w", i, n, err)
					}
				}
				return nil
			}()
		}()
	}
	for range callers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := scalar[int](t, pool, `select count(*) from counted`); got != callers*each*2 {
		t.Errorf("%d rows, want %d", got, callers*each*2)
	}
	admin := p.admin(t)
	if got := scalar[int](t, admin, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`); got > 2 {
		t.Errorf("%d sessions on the server: the pool was not smaller than its clients", got)
	}
	if got := scalar[int](t, pool, `select count(*) from pg_prepared_statements`); got != 0 {
		t.Errorf("%d statements have a name", got)
	}
	whole(t, pool)
}

// mixed is one round of a caller: a query, a batch and a transaction.
func mixed(ctx context.Context, pool *provider.Pool, i, n int) error {
	var got int
	if err := pool.QueryRow(ctx, `select $1::int * $2::int`, i, n).Scan(&got); err != nil || got != i*n {
		return fmt.Errorf("query: %d, %w", got, err)
	}
	b := &pgx.Batch{}
	b.Queue(`insert into counted values ($1)`, n)
	b.Queue(`select $1::text`, "x")
	if err := pool.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	tx, err := pool.Begin(ctx, providers.TxOptions{})
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `insert into counted values ($1)`, n); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return tx.Commit(ctx)
}

// TestTrap17WhatTheProfilePrevents: with the direct profile the second client
// prepares under a name that the session already has, and one whose session was
// exchanged executes what the new one does not have.
func TestTrap17WhatTheProfilePrevents(t *testing.T) {
	p := newPooler(t, 1)
	const sql = `select $1::int + 1`
	for profile, want := range map[providers.Profile][2]string{
		providers.ProfileDirect:    {"42P05", "26000"},
		providers.ProfilePgBouncer: {"", ""},
	} {
		t.Run(profile.String(), func(t *testing.T) {
			cfg := providers.Config{Profile: profile, Pool: providers.PoolStrategy{MaxSize: 1}}
			first, second := p.open(t, cfg), p.open(t, cfg)
			if got := scalar[int](t, first, sql, 1); got != 2 {
				t.Errorf("got %d", got)
			}
			var got int
			if code := codeOf(t, second.QueryRow(t.Context(), sql, 1).Scan(&got)); code != want[0] {
				t.Errorf("the same statement by another client: %q, want %q", code, want[0])
			}
			p.reconnect(t)
			if code := codeOf(t, first.QueryRow(t.Context(), sql, 1).Scan(&got)); code != want[1] {
				t.Errorf("the same client on another session: %q, want %q", code, want[1])
			}
			if profile == providers.ProfilePgBouncer && got != 2 {
				t.Errorf("got %d", got)
			}
		})
		p.reconnect(t)
	}
}

func TestTrap17NamedStatementsAreRefusedBehindPgBouncer(t *testing.T) {
	pool := newPooler(t, 1).open(t, behind(2))
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe} {
		if _, err := pool.Exec(t.Context(), `select $1::int`, mode, 1); err == nil || !strings.Contains(err.Error(), "disabled") {
			t.Errorf("%v: %v", mode, err)
		}
	}
	whole(t, pool)
}
