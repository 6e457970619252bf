package pgx

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// sideBySide runs a benchmark on a bare pgxpool and on ours, over the same
// database.
func sideBySide(b *testing.B, setup string, bare func(*testing.B, *pgxpool.Pool), ours func(*testing.B, *Pool)) {
	b.Helper()
	dsn := pgtest.NewDB(b)
	pool, err := pgxpool.New(b.Context(), dsn)
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(b.Context(), setup); err != nil {
		b.Fatal(err)
	}
	p := openPool(b, providers.Config{DSN: dsn})
	b.Run("pgxpool", func(b *testing.B) { b.ReportAllocs(); bare(b, pool) })
	b.Run("pgkeel", func(b *testing.B) { b.ReportAllocs(); ours(b, p) })
}

func BenchmarkTransaction(b *testing.B) {
	const sql = "select $1::int"
	sideBySide(b, "", func(b *testing.B, pool *pgxpool.Pool) {
		for b.Loop() {
			tx, err := pool.BeginTx(b.Context(), pgx.TxOptions{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := tx.Exec(b.Context(), sql, 1); err != nil {
				b.Fatal(err)
			}
			if err := tx.Commit(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}, func(b *testing.B, p *Pool) {
		for b.Loop() {
			tx, err := p.Begin(b.Context(), providers.TxOptions{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := tx.Exec(b.Context(), sql, 1); err != nil {
				b.Fatal(err)
			}
			if err := tx.Commit(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkTransactionQueryRow(b *testing.B) {
	const sql = "select $1::int"
	var n int
	sideBySide(b, "", func(b *testing.B, pool *pgxpool.Pool) {
		for b.Loop() {
			tx, err := pool.BeginTx(b.Context(), pgx.TxOptions{})
			if err != nil {
				b.Fatal(err)
			}
			for range 2 {
				if err := tx.QueryRow(b.Context(), sql, 1).Scan(&n); err != nil {
					b.Fatal(err)
				}
			}
			if err := tx.Commit(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}, func(b *testing.B, p *Pool) {
		for b.Loop() {
			tx, err := p.Begin(b.Context(), providers.TxOptions{})
			if err != nil {
				b.Fatal(err)
			}
			for range 2 {
				if err := tx.QueryRow(b.Context(), sql, 1).Scan(&n); err != nil {
					b.Fatal(err)
				}
			}
			if err := tx.Commit(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkQueryRow(b *testing.B) {
	const sql = "select $1::int"
	var n int
	sideBySide(b, "", func(b *testing.B, pool *pgxpool.Pool) {
		for b.Loop() {
			if err := pool.QueryRow(b.Context(), sql, 1).Scan(&n); err != nil {
				b.Fatal(err)
			}
		}
	}, func(b *testing.B, p *Pool) {
		for b.Loop() {
			if err := p.QueryRow(b.Context(), sql, 1).Scan(&n); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkExec(b *testing.B) {
	const sql = "select $1::int"
	sideBySide(b, "", func(b *testing.B, pool *pgxpool.Pool) {
		for b.Loop() {
			if _, err := pool.Exec(b.Context(), sql, 1); err != nil {
				b.Fatal(err)
			}
		}
	}, func(b *testing.B, p *Pool) {
		for b.Loop() {
			if _, err := p.Exec(b.Context(), sql, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkQuery1000Rows(b *testing.B) {
	const sql = "select g, g::text from generate_series(1, 1000) g where g > $1"
	read := func(b *testing.B, rows pgx.Rows, err error) {
		if err != nil {
			b.Fatal(err)
		}
		var n int
		var s string
		for rows.Next() {
			if err := rows.Scan(&n, &s); err != nil {
				b.Fatal(err)
			}
		}
		if rows.Err() != nil {
			b.Fatal(rows.Err())
		}
	}
	sideBySide(b, "", func(b *testing.B, pool *pgxpool.Pool) {
		for b.Loop() {
			rows, err := pool.Query(b.Context(), sql, 0)
			read(b, rows, err)
		}
	}, func(b *testing.B, p *Pool) {
		for b.Loop() {
			rows, err := p.Query(b.Context(), sql, 0)
			read(b, rows, err)
		}
	})
}
