package demo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestTheDemoHoldsEveryCheck(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if err := Run(t.Context(), []string{"-duration", "1s"}, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s%s", err, &stdout, &stderr)
	}
	text := stdout.String()
	for _, line := range []string{
		`PostgreSQL 1\d\.`,
		`100 %  171,075 of 171,075`,
		`✓ COPY took every row: 171,075 of 171,075`,
		`✓ streamed back into a struct, row by row, 171,075 of 171,075 are as in the source`,
		`typed reads in .*, [\d,]+ a second`,
		`✓ every answer is what the source says\n`,
		`64 callers on 4 connections: [\d,]+ reads a second from a bare pool, [\d,]+ on shared ones`,
		`✓ every answer is what the source says, on both, and several`,
		`cannot execute UPDATE in a read-only transaction`,
		`✓ a shared connection, killed under 64 callers, was replaced after`,
		`✓ and none of them noticed: [\d,]+ right answers, no error`,
		`✓ the server never had more sessions of the handle than the 4 it may open: at most 4 in`,
		`✓ applied, they leave nothing to do\n`,
		`tenant +rows +statements +a second`,
		`FI +885 +[\d,]+`,
		`✓ no tenant ever read or changed a row of another, in [\d,]+ tries by its id`,
		`✓ the owner, whom no policy binds, counts the rows and the writes`,
		`new row violates row-level security policy for table "guide"`,
		`✓ it is refused before a connection was asked for`,
		`✓ and no tenant was left behind in any of the 2 connections`,
		`✓ under Bypass all 5,724 rows are there, a hook heard of it`,
		`✓ atomic: the fault at statement 3 left nothing in the table`,
		`✓ isolated: the fault at statement 3 left 1 2 3 4 5 in the table`,
		`✓ grouped: the fault at statement 3 left 1 2 4 5 in the table`,
		`✓ a stream of 20,000 statements, .* 20,000 rows are there`,
		`✓ no stock came or went: 24,600 of 24,600, with [\d,]+ savepoints undone`,
		`each made to conflict: [\d,]+ retries`,
		`✓ every conflict was retried until it committed`,
		`✓ exported again, they are the same byte for byte: ([\d,]+) of`,
		`line 1000, column "id", near "xxxxxxx-99"`,
		`✓ the error tells line and column, and not the value; nothing was loaded`,
		`chunks committed, while [1-5] of the connections were killed`,
		`✓ no row came twice, none is missing`,
		`8 connections killed while 16 callers read; the pool was whole again after`,
		`✓ an idle connection, killed, was replaced`,
		`✓ a transaction whose connection was killed before its second statement was run again as a whole`,
		`✓ and what it did is there once`,
		`✓ the caller was free after .*: context deadline`,
		`[\d,]+ notifications sent while the listener's connection was killed 10 times`,
		`✓ [\d,]+ heard, [\d,]+ missing, each of them at one of \d+ gaps? that w`,
		`✓ through the outbox came every one, once and in order: [\d,]+ of [\d,]+`,
		`✓ without a deadline the server's own limit ends it: statement_timeout`,
		`correlation\s+id\s+order\s+41`, // the quote may break anywhere
		`✓ no more callers failed than connections were killed, and each was told: \d of 8`,
		`✓ 200 times a session wrote and read at once, [1-9]\d* of these on the standby: it always saw its write`,
		`✓ Reader\(\) reads from the standby: all 171,075 places are there, and the same to the last character`,
		`nobody's count was acknowledged for .*; the new primary's first one came .* after it took writes`,
		`✓ ([\d,]+) counts were acknowledged, and the counter says [\d,]+: none lost, none twice`,
		`cannot execute DELETE in a read-only transaction`,
		`operation +count +a second +p50 +p95 +p99`,
		`primary, acquired `,
		`commit +[\d,]+ +[\d,]+ +\d`,
		`✓ the servers ended and their folder is gone`,
		`✓ all \d+ checks held`,
		`GeoNames .*CC BY 4\.0`,
	} {
		if !regexp.MustCompile(line).MatchString(text) {
			t.Errorf("no line matches %s", line)
		}
	}
	if strings.ContainsAny(text, "\x1b\r") || strings.Contains(text, "✗") || stderr.Len() > 0 {
		t.Errorf("escape codes, or something failed; stderr: %s", &stderr)
	}
	if t.Failed() {
		t.Log(text)
	}
}

// cutter ends the context when a text is written.
type cutter struct {
	bytes.Buffer
	at     string
	cancel func()
}

func (c *cutter) Write(p []byte) (int, error) {
	if strings.Contains(string(p), c.at) {
		c.cancel()
	}
	return c.Buffer.Write(p)
}

func TestAnInterruptLeavesNothingBehind(t *testing.T) {
	for _, at := range []string{"starting", "50 %", "Reads", "Killed"} {
		t.Run(at, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			// The servers may run as another user, who must get there.
			for dir := os.TempDir(); dir != "/" && strings.Contains(dir, "Test"); dir = filepath.Dir(dir) {
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := &cutter{at: at, cancel: cancel}
			err := Run(ctx, []string{"-duration", "200ms"}, out, io.Discard)
			if err == nil || !strings.HasPrefix(err.Error(), "interrupted") || !errors.Is(err, context.Canceled) {
				t.Errorf("the error is %v", err)
			}
			if strings.Contains(out.String(), "✗") {
				t.Error(out.String())
			}
			left, err := filepath.Glob(filepath.Join(os.TempDir(), "*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

func TestAFailingCheckIsListedAndIsAnError(t *testing.T) {
	played := false
	list := []scene{
		{name: "Sums", play: func(ctx context.Context, e *environment) error {
			e.check(ctx, 1+1 == 3, "one and one are three")
			return errors.New("out of fingers")
		}},
		{name: "Needed", required: true, play: func(ctx context.Context, e *environment) error {
			_, err := e.db.Exec(ctx, `select broken`)
			return err
		}},
		{name: "Not reached", play: func(context.Context, *environment) error { played = true; return nil }},
	}
	var stdout bytes.Buffer
	err := run(t.Context(), settings{duration: time.Second, color: "never"}, list, &stdout, io.Discard)
	if err == nil || err.Error() != "3 of 7 checks did not hold" || played {
		t.Errorf("played %v, the error is %v", played, err)
	}
	for _, line := range []string{
		"  ✗ one and one are three\n",
		"  ✗ the scene ran to its end: out of fingers\n",
		"✗ 3 of 7 checks did not hold:\n    Sums: one and one are three\n    Sums: the scene ran to its end: out of fingers\n    Needed: ",
	} {
		if !strings.Contains(stdout.String(), line) {
			t.Errorf("no %q in\n%s", line, &stdout)
		}
	}
}

func TestWithoutPostgreSQLTheErrorSaysSo(t *testing.T) {
	t.Setenv("PGKEEL_PG_BIN", t.TempDir())
	err := Run(t.Context(), nil, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "start the servers") || !strings.Contains(err.Error(), "PGKEEL_PG_BIN") {
		t.Errorf("the error is %v", err)
	}
}

// sceneNamed picks a scene of the demo.
func sceneNamed(t *testing.T, name string) scene {
	t.Helper()
	for _, s := range scenes() {
		if s.name == name {
			return s
		}
	}
	t.Fatalf("no scene %s", name)
	return scene{}
}

// spoil is a scene that runs a statement on the primary.
func spoil(sql string) scene {
	return scene{name: "Spoil", play: func(ctx context.Context, e *environment) error {
		_, err := e.db.Exec(ctx, sql)
		return err
	}}
}

func TestWhatIsWrongIsFoundOut(t *testing.T) {
	for name, c := range map[string]struct {
		sql, scene, fault string
	}{
		"a wrong name":  {`update cities set name = name || '!'`, "Reads", "Reads: every answer is what the source says: "},
		"a wrong place": {`update cities set lat = lat + 1`, "Pipelining", "Pipelining: the scene ran to its end: One: a crowd on a bare pool: the answer is not what"},
		"a lost row":    {`delete from cities where id = (select min(id) from cities where country = 'FI')`, "Tenants", "Tenants: "},
		"a missing row": {`delete from cities where id = 7`, "Replica", "Replica: Reader() reads from the standby: all 171,074 places are there"},
		"a lost table":  {`alter table cities rename to gone`, "Killed connections", "Killed connections: the scene ran to its end: kill all connections: relation "},
	} {
		t.Run(name, func(t *testing.T) {
			list := []scene{sceneNamed(t, "Load"), spoil(c.sql), sceneNamed(t, c.scene)}
			var stdout bytes.Buffer
			err := run(t.Context(), settings{duration: minDuration, color: "never"}, list, &stdout, io.Discard)
			if err == nil || !strings.Contains(stdout.String(), "    "+c.fault) {
				t.Errorf("%v\n%s", err, &stdout)
			}
		})
	}
}

func TestNoSceneHoldsOnHandlesThatAreClosed(t *testing.T) {
	var stdout bytes.Buffer
	e, err := setUp(t.Context(), &report{w: &stdout}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer e.takeDown(t.Context())
	for _, db := range []interface{ Close(context.Context) error }{e.db, e.observer} {
		if err := db.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	e.places = []place{{ID: 1}}
	for _, s := range scenes() {
		if s.name == "Failover" {
			continue // it has servers and a handle of its own
		}
		t.Run(s.name, func(t *testing.T) {
			before := len(e.out.failures())
			if err := s.play(t.Context(), e); err == nil && len(e.out.failures()) == before {
				t.Error("it held")
			}
		})
	}
}
