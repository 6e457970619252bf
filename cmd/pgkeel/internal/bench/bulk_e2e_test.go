package bench

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
)

// copySite makes the table that the scenarios of COPY load into.
func copySite(t *testing.T) Site {
	t.Helper()
	dsn := pgtest.NewDB(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := copying().Setup(t.Context(), conn, "public"); err != nil {
		t.Fatal(err)
	}
	return Site{DSN: dsn, Schema: "public", PoolSize: 1}
}

func TestWithoutPsqlTheBareDriverTakesItsPlaceAndSaysSo(t *testing.T) {
	site := copySite(t)
	file, err := writeCSV(10)
	if err != nil {
		t.Fatal(err)
	}
	side, err := openPsql(t.Context(), "", site, file, 10)
	if err != nil {
		t.Fatal(err)
	}
	side = withFile(side, file)
	if err := side.Op(t.Context(), 0, 0); err != nil {
		t.Error(err)
	}
	if !strings.Contains(side.Note(), "no psql") {
		t.Error(side.Note())
	}
	if err := side.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

func TestPsqlLoadsAndTellsWhatWentWrong(t *testing.T) {
	site := copySite(t)
	side, err := onPsql(10)(t.Context(), site)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := side.Op(t.Context(), 0, 0); err != nil {
			t.Error(err)
		}
	}
	if err := side.Close(t.Context()); err != nil {
		t.Error(err)
	}
	site.Schema = "missing"
	if side, err = onPsql(10)(t.Context(), site); err != nil {
		t.Fatal(err)
	}
	if err := side.Op(t.Context(), 0, 0); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("%v", err)
	}
	if err := side.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPsqlIsFoundWhereTheUserSays(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "psql")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGKEEL_PG_BIN", dir)
	if got := findPsql(); got != program {
		t.Error(got)
	}
	t.Setenv("PGKEEL_PG_BIN", "")
	t.Setenv("PATH", dir)
	if got := findPsql(); got != program {
		t.Error(got)
	}
	t.Setenv("PATH", "")
	if got := findPsql(); got != "" && !strings.HasPrefix(got, "/usr/lib/postgresql/") {
		t.Error(got)
	}
}

func TestScenariosThatTakeLongRunOnlyByName(t *testing.T) {
	all, err := selected(Scenarios(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, sc := range all {
		if onlyOnRequest[sc.Name] {
			t.Errorf("%s runs unasked", sc.Name)
		}
	}
	for name := range onlyOnRequest {
		if asked, err := selected(Scenarios(), "^"+name+"$"); err != nil || len(asked) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
