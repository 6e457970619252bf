package bulk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// failing yields two rows and then what fn does.
func failing(fn func() error) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		if yield(1, nil) && yield(2, nil) {
			yield(0, fn())
		}
	}
}

// driverSource fails where it is told to.
type driverSource struct {
	n          int
	values, at error
}

func (d *driverSource) Next() bool {
	d.n++
	return d.n <= 3
}

func (d *driverSource) Values() ([]any, error) {
	if d.n == 3 {
		return nil, d.values
	}
	return []any{d.n}, nil
}

func (d *driverSource) Err() error {
	if d.n > 3 {
		return d.at
	}
	return nil
}

func TestSourcesThatFail(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	into := Into{Table: table("t"), Columns: []string{"n"}}
	for name, c := range map[string]struct {
		src Source
		row int64
		is  error
	}{
		"iterator":       {FromSeq2(failing(func() error { return errOfCaller })), 3, errOfCaller},
		"nil pointer":    {FromSlice([]*struct{ N int }{{1}, nil}), 2, errNilRow},
		"missing in map": {FromSlice([]map[string]any{{"n": 1}, {"x": 1}}), 2, nil},
		"pgx values":     {FromSource(&driverSource{values: errOfCaller}), 3, errOfCaller},
		"pgx err":        {FromSource(&driverSource{values: nil, at: errOfCaller}), 3, nil},
		"records": {FromRecords(func(yield func([][]byte, error) bool) {
			_ = yield([][]byte{[]byte("1")}, nil) && yield(nil, errOfCaller)
		}, Text{}), 2, errOfCaller},
		"no fields": {FromRecords(func(yield func([][]byte, error) bool) { yield([][]byte{}, nil) }, Text{}), 1, nil},
	} {
		_, err := CopyFrom(t.Context(), db, into, c.src)
		if name == "pgx err" { // its third row has no values, which the driver finds first
			if err == nil {
				t.Errorf("%s: no error", name)
			}
			continue
		}
		var failed *SourceError
		if !errors.As(err, &failed) || failed.Row != c.row || c.is != nil && !errors.Is(err, c.is) ||
			providers.OutcomeOf(err) != providers.OutcomeRolledBack || !strings.Contains(err.Error(), fmt.Sprintf("at row %d (rolled back)", c.row)) {
			t.Errorf("%s: %v", name, err)
		}
		var pg *providers.PGError
		if !errors.As(err, &pg) || strings.Contains(pg.Message, errOfCaller.Error()) {
			t.Errorf("%s: the server was told: %v", name, pg)
		}
	}
	src := &driverSource{n: 3, at: errOfCaller}
	_, err := CopyFrom(t.Context(), db, into, FromSource(src))
	var failed *SourceError
	if !errors.As(err, &failed) || failed.Row != 1 {
		t.Errorf("%v", err)
	}
	for name, src := range map[string]Source{
		"iterator": FromSeq2(failing(func() error { panic("boom") })),
		"records":  FromRecords(func(func([][]byte, error) bool) { panic("boom") }, Text{}),
		"reader":   FromReader(readerFunc(func([]byte) (int, error) { panic("boom") }), Text{}),
	} {
		if r := panics(func() { _, _ = CopyFrom(t.Context(), db, into, src) }); r != "boom" {
			t.Errorf("%s: panicked with %v", name, r)
		}
	}
	_, err = CopyFrom(t.Context(), db, into, FromReader(iotest.ErrReader(errOfCaller), Text{}))
	if !errors.Is(err, errOfCaller) || !strings.Contains(err.Error(), "the reader failed") {
		t.Errorf("%v", err)
	}
	expect(t, db, 0, `select count(*)::int from t`)
	if s := db.Stats(); s.InUse != 0 || s.Connects != 1 {
		t.Errorf("%+v", s)
	}
}

func TestAnIteratorIsEndedHoweverTheCopyEnds(t *testing.T) {
	db := openDB(t, `create table t (n int check (n < 3))`)
	for name, c := range map[string]func(ended chan<- bool) Source{
		"rows": func(ended chan<- bool) Source {
			return FromSeq(func(yield func(int) bool) {
				defer close(ended)
				for i := 0; yield(i); i++ {
				}
			})
		},
		"records": func(ended chan<- bool) Source {
			return FromRecords(func(yield func([][]byte, error) bool) {
				defer close(ended)
				for i := 0; yield([][]byte{[]byte(itoa(int64(i)))}, nil); i++ {
				}
			}, Text{})
		},
	} {
		ended := make(chan bool)
		_, err := CopyFrom(t.Context(), db, Into{Table: table("t"), Columns: []string{"n"}}, c(ended))
		var at *CopyError
		if !errors.As(err, &at) || at.Line != 4 {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case <-ended: // at the latest when the buffer at hand is full
		case <-time.After(patience):
			t.Errorf("%s: the iterator goes on", name)
		}
	}
}

func TestAChannelEndsWithItsContext(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	into := Into{Table: table("t"), Columns: []string{"n"}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	items := make(chan int)
	go func() { items <- 1; cancel() }()
	_, err := CopyFrom(ctx, db, into, FromChan(items))
	var limit *providers.TimeoutError
	if !errors.As(err, &limit) || !errors.Is(err, context.Canceled) || providers.OutcomeOf(err) != providers.OutcomeRolledBack {
		t.Errorf("%v", err)
	}
	expect(t, db, 0, `select count(*)::int from t`)
}

func TestAChannelIsLeftWhenTheServerRefuses(t *testing.T) {
	db := openDB(t, `create table t (n int check (n < 10))`)
	const n = 20_000 // enough to be sent before the channel runs dry
	items := make(chan int, n)
	for i := range n {
		items <- i
	}
	_, err := CopyFrom(t.Context(), db, Into{Table: table("t"), Columns: []string{"n"}}, FromChan(items))
	var pg *providers.PGError
	if !errors.As(err, &pg) || !pg.IsCheckViolation() {
		t.Errorf("%v", err)
	}
}

// waiting is a source of the driver's kind that can be interrupted.
type waiting struct {
	driverSource
	free chan struct{}
}

func (w *waiting) Next() bool {
	if w.n++; w.n <= 20_000 {
		return true
	}
	<-w.free
	return false
}
func (w *waiting) Values() ([]any, error) { return []any{w.n}, nil }
func (w *waiting) Err() error             { return nil }
func (w *waiting) Interrupt()             { close(w.free) }

func TestADriversSourceIsInterrupted(t *testing.T) {
	db := openDB(t, `create table t (n int check (n < 10))`)
	_, err := CopyFrom(t.Context(), db, Into{Table: table("t"), Columns: []string{"n"}}, FromSource(&waiting{free: make(chan struct{})}))
	var pg *providers.PGError
	if !errors.As(err, &pg) || !pg.IsCheckViolation() {
		t.Errorf("%v", err)
	}
	(&driverStream{CopyFromSource: &driverSource{}}).Interrupt() // one that cannot be
}

func TestAReaderThatBlocksHoldsUpNothing(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	free, gone := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := io.MultiReader(strings.NewReader("1\n"), readerFunc(func([]byte) (int, error) {
		cancel()
		<-free
		close(gone)
		return 0, io.EOF
	}))
	told := 0
	into := Into{Table: table("t"), Progress: Watch{Bytes: 1, Func: func(Progress) { told++ }}}
	_, err := CopyFrom(ctx, db, into, FromReader(r, Text{}))
	if !errors.Is(err, context.Canceled) || told != 1 {
		t.Errorf("told %d times, %v", told, err)
	}
	close(free)
	<-gone
	expect(t, db, 0, `select count(*)::int from t`)
}

func TestACopyThatPanicsFreesTheReader(t *testing.T) {
	freed := false
	g := gate{free: func() { freed = true }}
	if !g.enter() || g.close() || freed {
		t.Error("freed while somebody reads")
	}
	if g.leave(); !freed || g.enter() {
		t.Error("not freed, or entered after the end")
	}
	if !g.close() {
		t.Error("somebody reads")
	}
	runtime.KeepAlive(&g)
	db := openDB(t, "")
	if n, err := newMeteredReader(strings.NewReader("x"), newMeter(t.Context(), Watch{})).Read(make([]byte, 1)); n != 1 || err != nil {
		t.Error(n, err)
	}
	_ = db
	r := newMeteredReader(decompress(strings.NewReader(""), Gzip{}), newMeter(t.Context(), Watch{}))
	r.close()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	records := recordReader{gate: gate{free: func() {}}}
	records.close()
	if _, err := records.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
