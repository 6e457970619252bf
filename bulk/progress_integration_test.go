package bulk

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// clock goes on by step at each look.
type clock struct {
	now  time.Time
	step time.Duration
}

func (c *clock) Now() time.Time {
	c.now = c.now.Add(c.step)
	return c.now
}

// slowly yields data in portions.
func slowly(data string, portion int) io.Reader {
	r := strings.NewReader(data)
	return readerFunc(func(b []byte) (int, error) { return r.Read(b[:min(portion, len(b))]) })
}

func TestProgressByTheClock(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	var seen []Progress
	watch := Watch{Func: func(p Progress) { seen = append(seen, p) }, Interval: time.Second, Now: (&clock{step: 300 * time.Millisecond}).Now}
	data := strings.Repeat("1\n", 10_000)
	res, err := CopyFrom(t.Context(), db, Into{Table: table("t"), Progress: watch}, FromReader(slowly(data, 1000), Text{}))
	if err != nil || res.Rows != 10_000 || res.Bytes != 20_000 {
		t.Fatal(res, err)
	}
	// Twenty portions and a look at each of them: every fourth is told.
	if len(seen) != 6 || seen[0].Rows != -1 || seen[0].Bytes != 4000 || seen[0].Elapsed != 1200*time.Millisecond || seen[0].Done {
		t.Errorf("%+v", seen)
	}
	last := seen[len(seen)-1]
	if !last.Done || last.Rows != 10_000 || last.Bytes != 20_000 || last.RowsPerSecond() < 1000 || last.BytesPerSecond() != 2*last.RowsPerSecond() {
		t.Errorf("%+v", last)
	}
	if (Progress{Rows: 1}).RowsPerSecond() != 0 || (Progress{Rows: -1, Elapsed: 1}).RowsPerSecond() != 0 {
		t.Error("a rate out of nothing")
	}
}

func TestProgressByBytesAndRows(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	var seen []Progress
	note := func(p Progress) { seen = append(seen, p) }
	_, err := CopyFrom(t.Context(), db, Into{Table: table("t"), Progress: Watch{Func: note, Bytes: 5000}}, FromReader(slowly(strings.Repeat("1\n", 10_000), 1000), Text{}))
	if err != nil || len(seen) != 5 || seen[3].Bytes != 20_000 || !seen[4].Done {
		t.Errorf("%+v %v", seen, err)
	}
	seen = nil
	watch := Watch{Func: note, Now: (&clock{step: time.Second}).Now}
	if _, err = CopyFrom(t.Context(), db, Into{Table: table("t"), Columns: []string{"n"}, Progress: watch}, FromSlice(make([]int, 1000))); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 16 || seen[0].Rows != clockRows || seen[15].Rows != 1000 || !seen[15].Done {
		t.Errorf("%+v", seen)
	}
	seen = nil
	_, err = CopyTo(t.Context(), db, From{Query: `select generate_series(1, 1000)`, Format: CSV{Header: HeaderLine}, Progress: Watch{Func: note, Bytes: 1000}}, io.Discard)
	if err != nil || len(seen) != 4 || seen[0].Bytes < 1000 || seen[0].Rows < 200 || seen[3].Rows != 1000 {
		t.Errorf("%+v %v", seen, err)
	}
}

func TestProgressAsTheServerKnowsIt(t *testing.T) {
	db := openDB(t, `create table t (n int, v text)`)
	best := Progress{}
	note := func(p Progress) {
		if p.ServerErr != nil {
			t.Error(p.ServerErr)
		}
		if !p.Done {
			best.Rows, best.Excluded, best.Bytes = max(best.Rows, p.Rows), max(best.Excluded, p.Excluded), max(best.Bytes, p.Bytes)
		}
	}
	data := strings.Repeat("1\tof some length\n2\tof some length\n", 50_000)
	into := Into{Table: table("t"), Where: "n = 1 and v <> " + QuoteLiteral(strings.Repeat("x", 2000)), Progress: Watch{Func: note, Bytes: 64 << 10, Server: db}}
	if _, err := CopyFrom(t.Context(), db, into, FromReader(slowly(data, 32<<10), Text{})); err != nil {
		t.Fatal(err)
	}
	if best.Rows < 1000 || best.Excluded < 1000 {
		t.Errorf("of a reader: %+v", best)
	}
	best = Progress{}
	into = Into{Table: table("t"), Columns: []string{"n"}, Progress: Watch{Func: note, Server: db, Now: (&clock{step: time.Second / 8}).Now}}
	if _, err := CopyFrom(t.Context(), db, into, FromSlice(make([]int, 100_000))); err != nil {
		t.Fatal(err)
	}
	if best.Bytes < 1000 || best.Rows < 90_000 {
		t.Errorf("of rows: %+v", best)
	}
	best = Progress{}
	from := From{Query: `select * from t, generate_series(1, 3)`, Progress: Watch{Func: note, Bytes: 64 << 10, Server: db}}
	if _, err := CopyTo(t.Context(), db, from, io.Discard); err != nil || best.Rows < 1000 {
		t.Errorf("of a writer: %+v, %v", best, err)
	}
}

func TestAServerThatCannotBeAskedIsSaidSo(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	gone := openOn(t, pgtest.NewDB(t), "")
	if err := gone.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var errs []error
	watch := Watch{Func: func(p Progress) { errs = append(errs, p.ServerErr) }, Bytes: 1000, Server: gone}
	if _, err := CopyFrom(t.Context(), db, Into{Table: table("t"), Progress: watch}, FromReader(slowly(strings.Repeat("1\n", 10_000), 1000), Text{})); err != nil {
		t.Fatal(err)
	}
	for _, err := range errs {
		if !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("%v", err)
		}
	}
	if len(errs) != 21 {
		t.Errorf("told %d times", len(errs))
	}
}

func TestNobodyIsToldAfterTheEnd(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	told := 0
	watch := Watch{Func: func(Progress) { told++ }, Bytes: 1}
	into := Into{Table: table("t"), Progress: watch}
	if _, err := CopyFrom(t.Context(), db, into, FromReader(strings.NewReader("x\n"), Text{})); err == nil {
		t.Fatal("no error")
	}
	if told != 1 { // no last one, since it failed
		t.Errorf("told %d times", told)
	}
	m := newMeter(context.Background(), watch)
	m.stop()
	m.add(1, 1)
	if told != 1 {
		t.Error("told after the end")
	}
	if r := panics(func() {
		into.Progress.Func = func(Progress) { panic("boom") }
		_, _ = CopyFrom(t.Context(), db, into, FromReader(strings.NewReader("1\n"), Text{}))
	}); r != "boom" {
		t.Errorf("panicked with %v", r)
	}
	expect(t, db, 0, `select count(*)::int from t`)
	if s := db.Stats(); s.InUse != 0 {
		t.Errorf("%+v", s)
	}
	_ = pgkeel.Off
}
