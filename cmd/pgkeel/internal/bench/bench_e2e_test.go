package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
)

// brief are flags with which a scenario takes a moment.
func brief(dsn string, more ...string) []string {
	return append([]string{"-dsn", dsn, "-rounds", "2", "-duration", "3ms", "-callers", "3"}, more...)
}

// nothingLeft fails if a schema, or a session, of the benchmark is still there.
func nothingLeft(t *testing.T, dsn string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var schemas int
	err = conn.QueryRow(t.Context(), `select count(*) from pg_namespace where nspname like 'pgkeel%'`).Scan(&schemas)
	if err != nil || schemas != 0 {
		t.Errorf("%d schemas left; %v", schemas, err)
	}
}

func TestEveryScenarioRunsAndReportsJSON(t *testing.T) {
	dsn := pgtest.NewDB(t)
	var stdout, stderr bytes.Buffer
	if err := Run(t.Context(), brief(dsn, "-json"), &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	measured := map[string]bool{}
	for text := range strings.Lines(stdout.String()) {
		checkLine(t, text)
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		measured[l.Scenario] = true
	}
	for _, sc := range Scenarios() {
		if onlyOnRequest[sc.Name] || sc.Standby {
			continue
		}
		if !measured[sc.Name] || !measured[sc.Name+cpuPerOp] {
			t.Errorf("%s was not measured", sc.Name)
		}
	}
	nothingLeft(t, dsn)
}

func TestWithoutADSNItStartsAPostgreSQLOfItsOwn(t *testing.T) {
	var stdout, stderr bytes.Buffer
	err := Run(t.Context(), []string{"-only", "^queryrow$", "-rounds", "1", "-duration", "1ms"}, &stdout, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(stdout.String(), "queryrow ") || !strings.Contains(stderr.String(), "-dsn") {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
}

// A scenario with a standby runs on a PostgreSQL of its own, and is left out, in
// words, on the user's.
func TestScenariosWithAStandby(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if err := Run(t.Context(), []string{"-only", "^cluster", "-rounds", "1", "-duration", "1ms"}, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(stdout.String(), "cluster.reader ") {
		t.Errorf("stdout %q", stdout.String())
	}
	stdout.Reset()
	if err := Run(t.Context(), brief(pgtest.NewDB(t), "-only", "^cluster"), &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(stdout.String(), "cluster.reader") || !strings.Contains(stderr.String(), "cluster.reader needs a standby") {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
}

// interrupter cancels when the first result is written.
type interrupter struct {
	cancel context.CancelFunc
	bytes.Buffer
}

func (w *interrupter) Write(p []byte) (int, error) {
	w.cancel()
	return w.Buffer.Write(p)
}

func TestAnInterruptLeavesNothingBehind(t *testing.T) {
	dsn := pgtest.NewDB(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &interrupter{cancel: cancel}
	err := Run(ctx, brief(dsn, "-json"), out, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("the error is %v", err)
	}
	for text := range strings.Lines(out.String()) {
		checkLine(t, text)
	}
	nothingLeft(t, dsn)
}

func TestAFailingReportLeavesNothingBehind(t *testing.T) {
	dsn := pgtest.NewDB(t)
	for writes := range 2 {
		w := fullAfter(writes)
		err := Run(t.Context(), brief(dsn, "-only", "^queryrow$"), &w, io.Discard)
		if err == nil || !strings.Contains(err.Error(), errFull.Error()) {
			t.Errorf("the error is %v", err)
		}
	}
	nothingLeft(t, dsn)
}

func TestADatabaseThatForbidsSchemasIsAClearError(t *testing.T) {
	dsn := pgtest.NewDB(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	const role = "pgkeel_bench_guest"
	if _, err := conn.Exec(t.Context(), `create role `+role+` login`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := conn.Exec(context.Background(), `drop role `+role); err != nil {
			t.Error(err)
		}
		_ = conn.Close(context.Background())
	})
	guest := strings.Replace(dsn, "postgres@", role+"@", 1)
	err = Run(t.Context(), brief(guest), io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "create schema") || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("the error is %v", err)
	}
}

func TestAScenarioThatCannotRunSaysWhichAndWhy(t *testing.T) {
	db, err := openDatabase(t.Context(), pgtest.NewDB(t), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	s := settings{rounds: 1, duration: 1, callers: 1}
	broken := func(ctx context.Context, conn *pgx.Conn, _ string) error {
		_, err := conn.Exec(ctx, `select broken`)
		return err
	}
	good := Scenarios()[0]
	for name, spoil := range map[string]func(*Scenario){
		"setup":   func(sc *Scenario) { sc.Setup = broken },
		"reset":   func(sc *Scenario) { sc.Reset = broken },
		"pgkeel":  func(sc *Scenario) { sc.Ours = onHandle(nil, nil) },
		"pgxpool": func(sc *Scenario) { sc.Baseline = func(context.Context, Site) (Side, error) { return Side{}, errFull } },
	} {
		sc := good
		spoil(&sc)
		if _, err := runScenario(t.Context(), s, db, sc); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASideThatDoesLessIsFoundOut(t *testing.T) {
	if err := expect(1, 0); err == nil {
		t.Error("no error")
	}
}
