package pqtest_test

import (
	"errors"
	"testing"

	"github.com/lib/pq"
	"go.uber.org/goleak"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/providertest"
	"github.com/pgkeel/pgkeel/providers/stdsql"
)

func TestMain(m *testing.M) {
	pgtest.Main(m, func() error { return goleak.Find() })
}

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Target{
		Provider: stdsql.Provider{Driver: "postgres"},
		DSN:      pgtest.NewDB,
	})
}

// Code that looks for lib/pq's own errors goes on to find them.
func TestErrorsStayThoseOfPQ(t *testing.T) {
	p, err := stdsql.Provider{Driver: "postgres"}.Open(t.Context(), providers.Config{DSN: pgtest.NewDB(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close(t.Context()) }()
	_, err = p.Exec(t.Context(), "select 1 / $1::int", 0)
	var own *pq.Error
	if !errors.As(err, &own) || own.Code != "22012" {
		t.Errorf("%v (%T)", err, err)
	}
}

// pq.Array and arguments that only lib/pq knows work as before.
func TestArraysOfPQ(t *testing.T) {
	p, err := stdsql.Provider{Driver: "postgres"}.Open(t.Context(), providers.Config{DSN: pgtest.NewDB(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close(t.Context()) }()
	var list []string
	err = p.QueryRow(t.Context(), "select $1::text[]", pq.Array([]string{"a", `"b"`})).Scan(pq.Array(&list))
	if err != nil || len(list) != 2 || list[1] != `"b"` {
		t.Errorf("%q, %v", list, err)
	}
}
