package stdsql_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers/stdsql"
)

type account struct {
	ID    int64
	Owner *string
	Tags  []string
}

// The whole face works over a *sql.DB; what database/sql cannot do says so.
func TestFaceOverAnOpenDB(t *testing.T) {
	ctx := t.Context()
	sqlDB, err := sql.Open("pgx", pgtest.NewDB(t))
	if err != nil {
		t.Fatal(err)
	}
	defer sqlDB.Close()
	db, err := pgkeel.Open(ctx, "", pgkeel.WithOpener(stdsql.Provider{DB: sqlDB}), pgkeel.WithDeadlinePropagation())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	if _, err := db.Exec(ctx, "create table accounts (id bigint primary key, owner text, tags text[] not null default '{}')"); err != nil {
		t.Fatal(err)
	}
	err = db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		if _, err := tx.Exec(ctx, "insert into accounts (id, tags) values ($1, $2)", 1, []string{"a", "b"}); err != nil {
			return err
		}
		_ = tx.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := tx.Exec(ctx, "insert into accounts values (1)")
			return err // undone, and only that
		})
		_, err := tx.Exec(ctx, "insert into accounts values ($1, $2)", 2, "owner")
		return err
	}, pgkeel.TxOptions{Isolation: pgkeel.Serializable, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgkeel.All[account](ctx, db, "select id, owner, tags from accounts order by id")
	if err != nil || len(all) != 2 || len(all[0].Tags) != 2 || all[0].Owner != nil || *all[1].Owner != "owner" {
		t.Errorf("%+v, %v", all, err)
	}
	if m, err := pgkeel.One[map[string]any](ctx, db, "select id, owner from accounts where id = 1"); err != nil || m["id"] != int64(1) || m["owner"] != nil {
		t.Errorf("%v, %v", m, err)
	}
	if n, err := db.QueryCount(ctx, "select count(*) from accounts"); err != nil || n != 2 {
		t.Errorf("%d, %v", n, err)
	}
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if got, err := pgkeel.One[bool](limited, db, "select current_setting('statement_timeout') <> '0'"); err != nil || !got {
		t.Errorf("the deadline did not reach the server: %v", err)
	}
	if db.Unwrap() != nil {
		t.Error("there is no pgx pool")
	}
	if err := db.SendBatch(ctx, &pgx.Batch{}).Close(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}
