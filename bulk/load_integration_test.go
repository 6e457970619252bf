package bulk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// loadRows is how many rows the loads of the tests have.
const loadRows = 60_000

var loadData = sync.OnceValue(func() string { return "n,v\n" + numbers(1, loadRows) })

const loadTable = `create table t (n int, v text)`

// loadOf is a load in many small chunks.
func loadOf(id string) Load {
	return Load{
		ID: id, Into: Into{Table: table("public", "t"), Columns: []string{"n", "v"}}, Format: CSV{Header: HeaderMatch},
		Workers: 3, ChunkBytes: 32 << 10,
	}
}

// complete fails unless every row is there once, as it was.
func complete(t *testing.T, db *pgkeel.DB) {
	t.Helper()
	var rows strings.Builder
	if _, err := CopyTo(t.Context(), db, From{Query: `select n, v from t order by n`, Format: CSV{Header: HeaderLine}}, &rows); err != nil {
		t.Fatal(err)
	}
	if rows.String() != loadData() {
		t.Errorf("%d bytes of %d, or others; %d rows, %d of them different", rows.Len(), len(loadData()),
			value[int](t, db, `select count(*)::int from t`), value[int](t, db, `select count(distinct n)::int from t`))
	}
	expect(t, db, int64(loadRows), `select sum(rows)::bigint from pgkeel_loads`)
}

func TestParallelLoad(t *testing.T) {
	db := openDB(t, loadTable)
	var last Progress
	told := 0
	load := loadOf("all")
	load.Into.Progress = Watch{Func: func(p Progress) { told++; last = p }, Bytes: 1}
	res, err := ParallelLoad(t.Context(), db, load, strings.NewReader(loadData()))
	if err != nil || res.Rows != loadRows || res.Bytes != int64(len(loadData())-4) || res.Chunks < 30 || res.Resumed != 0 {
		t.Fatalf("%+v %v", res, err)
	}
	if int64(told) != res.Chunks+1 || !last.Done || last.Rows != loadRows || last.Bytes != res.Bytes {
		t.Errorf("told %d times, %+v", told, last)
	}
	complete(t, db)
	again, err := ParallelLoad(t.Context(), db, load, strings.NewReader(loadData()))
	if err != nil || again.Resumed != res.Chunks || again.Rows != loadRows || again.Bytes != res.Bytes {
		t.Errorf("%+v %v", again, err)
	}
	complete(t, db)
}

func TestParallelLoadOfOtherKinds(t *testing.T) {
	db := openDB(t, `create table t (n int, v text); create schema s`)
	for name, c := range map[string]struct {
		load Load
		data string
		want int64
	}{
		"text":          {Load{Format: Text{}}, strings.Repeat("1\ta\\\nb\n", 5000), 5000},
		"no data":       {Load{Format: CSV{}}, "", 0},
		"header only":   {Load{Format: CSV{Header: HeaderLine}}, "a,b\n", 0},
		"no header":     {Load{Format: CSV{Header: HeaderLine}}, "", 0},
		"no data twice": {Load{Format: CSV{}, Workers: 2}, "", 0},
		"CR LF":         {Load{Format: CSV{}, Workers: 1}, strings.Repeat("1,\"a\r\nb\"\r\n", 5000), 5000},
		"CR":            {Load{Format: CSV{}}, strings.Repeat("1,x\r", 5000), 5000},
		"no end":        {Load{Format: CSV{}}, strings.Repeat("1,x\n", 5000) + "2,y", 5001},
		"where":         {Load{Format: CSV{}, Into: Into{Where: "n = 2"}}, strings.Repeat("1,x\n2,y\n", 5000), 5000},
		"gzip":          {Load{Format: CSV{}, Into: Into{Compression: Gzip{}}}, gzipped(strings.Repeat("1,x\n", 5000)), 5000},
		"long records":  {Load{Format: CSV{}}, strings.Repeat("1,"+strings.Repeat("x", 10_000)+"\n", 20), 20},
		"other ledger":  {Load{Format: CSV{}, Ledger: table("s", "my ledger")}, "1,x\n", 1},
		"other quoting": {Load{Format: CSV{Quote: '\'', Escape: '\\'}}, strings.Repeat("1,'it\\'s\n'\n", 5000), 5000},
	} {
		mustExec(t, db, `truncate t`)
		c.load.ID, c.load.ChunkBytes, c.load.Into.Table = name, minChunkBytes, table("t")
		res, err := ParallelLoad(t.Context(), db, c.load, strings.NewReader(c.data))
		if err != nil || res.Rows != c.want {
			t.Errorf("%s: %+v %v", name, res, err)
		}
		expect(t, db, c.want, `select count(*) from t`)
	}
	expect(t, db, 1, `select count(*)::int from s."my ledger"`)
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if res, err := ParallelLoad(t.Context(), conn, Load{ID: "conn", Workers: 1, Into: Into{Table: table("t")}, Format: CSV{}}, strings.NewReader("1,x\n")); err != nil || res.Rows != 1 {
		t.Errorf("%+v %v", res, err)
	}
}

func TestLoadFaults(t *testing.T) {
	ok := Load{ID: "x", Into: Into{Table: table("t")}, Format: CSV{}}
	for want, change := range map[string]func(l *Load){
		"Load.ID":                   func(l *Load) { l.ID = "" },
		"Load.ID Load.ID":           func(l *Load) { l.ID = strings.Repeat("\x00", 1000) },
		"Load.Into.Freeze":          func(l *Load) { l.Into.Freeze = true },
		"Load.Into.Progress.Server": func(l *Load) { l.Into.Progress = Watch{Func: func(Progress) {}, Server: &pgkeel.DB{}} },
		"Load.Format":               func(l *Load) { l.Format = Binary{} },
		"Format":                    func(l *Load) { l.Format = nil },
		"Load.Format.Encoding":      func(l *Load) { l.Format = Text{Encoding: "shift-jis"} },
		"Load.Workers Load.ChunkBytes": func(l *Load) {
			l.Workers, l.ChunkBytes = -1, 1
		},
		"Load.Ledger": func(l *Load) { l.Ledger = table("a", "") },
		"":            func(l *Load) { l.Format = Text{Encoding: "LATIN1"} },
	} {
		l := ok
		change(&l)
		var f faults
		l = l.withDefaults()
		l.validate(&f)
		if got := faultsOf(f.join()); got != want {
			t.Errorf("%q instead of %q", got, want)
		}
	}
}

func TestALoadThatFailsIsResumed(t *testing.T) {
	db := openDB(t, loadTable)
	half := len(loadData()) / 2
	broken := io.MultiReader(strings.NewReader(loadData()[:half]), readerFunc(func([]byte) (int, error) { return 0, errOfCaller }))
	done, err := ParallelLoad(t.Context(), db, loadOf("x"), broken)
	var stopped *LoadError
	if !errors.As(err, &stopped) || !errors.Is(err, errOfCaller) || stopped.Done != done || done.Chunks == 0 || providers.OutcomeOf(err) != providers.OutcomeUnknown {
		t.Fatalf("%+v %v", done, err)
	}
	if !strings.Contains(err.Error(), fmt.Sprintf("%d chunks of %d rows committed; run it again", done.Chunks, done.Rows)) {
		t.Error(err)
	}
	expect(t, db, done.Rows, `select count(*) from t`)
	res, err := ParallelLoad(t.Context(), db, loadOf("x"), strings.NewReader(loadData()))
	if err != nil || res.Rows != loadRows || res.Resumed != done.Chunks {
		t.Errorf("%+v %v", res, err)
	}
	complete(t, db)
}

func TestALoadTellsTheLineOfTheData(t *testing.T) {
	db := openDB(t, loadTable)
	lines := strings.SplitAfter(loadData(), "\n")
	at := len(lines) * 2 / 3
	for !strings.Contains(lines[at], ",a value") {
		at++
	}
	lines[at] = "secret,x\n"
	_, err := ParallelLoad(t.Context(), db, loadOf("x"), strings.NewReader(strings.Join(lines, "")))
	var where *CopyError
	if !errors.As(err, &where) || where.Line != int64(at+1) || where.Column != "n" || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v, not at line %d", err, at+1)
	}
	load := loadOf("y")
	_, err = ParallelLoad(t.Context(), db, load, strings.NewReader("n,w\n1,x\n"))
	if !errors.As(err, &where) || where.Line != 1 {
		t.Errorf("%v", err)
	}
	for _, data := range []string{"n,v\n1,x\n\\.\n", "n,\"v"} {
		if _, err = ParallelLoad(t.Context(), db, loadOf("z"), strings.NewReader(data)); err == nil {
			t.Errorf("%q was loaded", data)
		}
	}
	if _, err = ParallelLoad(t.Context(), db, loadOf("z"), readerFunc(func([]byte) (int, error) { return 0, errOfCaller })); !errors.Is(err, errOfCaller) {
		t.Errorf("%v", err)
	}
}

func TestAnotherLoadUnderTheSameIDIsFoundOut(t *testing.T) {
	db := openDB(t, loadTable+`; create table u (like t)`)
	if _, err := ParallelLoad(t.Context(), db, loadOf("x"), strings.NewReader(loadData())); err != nil {
		t.Fatal(err)
	}
	s := newSplitter(strings.NewReader(loadData()), CSV{}, loadOf("x").ChunkBytes)
	if err := s.readHeader(); err != nil {
		t.Fatal(err)
	}
	c, err := s.next(nil)
	if err != nil {
		t.Fatal(err)
	}
	first := c.data
	for name, c := range map[string]struct {
		change func(l *Load)
		data   string
	}{
		"other data":   {func(*Load) {}, strings.Replace(loadData(), "a value 2\n", "a value 3\n", 1)},
		"other header": {func(l *Load) { l.Format = CSV{Header: HeaderLine} }, strings.Replace(loadData(), "n,v", "n,w", 1)},
		"shorter data": {func(*Load) {}, "n,v\n" + string(first)},
		"no data":      {func(*Load) {}, "n,v\n"},
		"other chunks": {func(l *Load) { l.ChunkBytes = 64 << 10 }, loadData()},
		"other table":  {func(l *Load) { l.Into.Table = table("u") }, loadData()},
		"all columns":  {func(l *Load) { l.Into.Columns = nil }, loadData()},
	} {
		load := loadOf("x")
		c.change(&load)
		if _, err := ParallelLoad(t.Context(), db, load, strings.NewReader(c.data)); !errors.Is(err, ErrLoadDiffers) {
			t.Errorf("%s: %v", name, err)
		}
	}
	complete(t, db)
	expect(t, db, 0, `select count(*)::int from u`)
	if err := ForgetLoad(t.Context(), db, nil, "x"); err != nil {
		t.Fatal(err)
	}
	expect(t, db, 0, `select count(*)::int from pgkeel_loads`)
}

func TestTheSameLoadTwiceAtOnce(t *testing.T) {
	db := openDB(t, loadTable)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if res, err := ParallelLoad(t.Context(), db, loadOf("x"), strings.NewReader(loadData())); err != nil || res.Rows != loadRows {
				t.Errorf("%+v %v", res, err)
			}
		})
	}
	both.Wait()
	complete(t, db)
	// Others loaded what this one only finds when it gets there.
	l := ledger{table: `"pgkeel_loads"`, id: "x", target: "other"}
	noted, err := l.claim(t.Context(), db, 0, entry{})
	if err != nil || noted == nil || !errors.Is(l.verify(0, *noted, entry{target: "other"}), ErrLoadDiffers) {
		t.Errorf("%+v %v", noted, err)
	}
}

// TestKilledBackendsLoseNothing kills connections while they load, commit, and
// write their notes.
func TestKilledBackendsLoseNothing(t *testing.T) {
	dsn := pgtest.NewDB(t)
	db, killer := openOn(t, dsn, loadTable), openOn(t, dsn, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var killing sync.WaitGroup
	var killed atomic.Int64
	killing.Go(func() {
		for ctx.Err() == nil && killed.Load() < 40 {
			n, err := killer.QueryCount(ctx, `select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle' order by random() limit 1) x`)
			if err == nil {
				killed.Add(n)
			}
		}
	})
	var err error
	var runs int
	for runs = 1; runs <= 50; runs++ { // the ledger itself can be hit as well, and then the run ends
		if _, err = ParallelLoad(t.Context(), db, loadOf("x"), slowly(loadData(), 16<<10)); err == nil {
			break
		}
		if errors.Is(err, ErrLoadDiffers) {
			t.Fatal(err)
		}
	}
	cancel()
	killing.Wait()
	if err != nil || killed.Load() == 0 {
		t.Fatalf("%d killed, %v", killed.Load(), err)
	}
	t.Logf("%d backends killed in %d runs", killed.Load(), runs)
	complete(t, db)
}

// victimEnv makes the test binary load on the database it names, until it is
// killed.
const victimEnv = "PGKEEL_BULK_VICTIM"

func victim(dsn string) {
	db, err := pgkeel.Open(context.Background(), dsn)
	if err == nil {
		load := loadOf("x")
		load.Into.Progress = Watch{Bytes: 1, Func: func(p Progress) { fmt.Println(p.Rows) }}
		// It is not done before it is killed, however late that is: the end is held back.
		slow, left := readerOf(loadData(), func() { <-time.After(time.Millisecond) }), len(loadData())
		_, err = ParallelLoad(context.Background(), db, load, readerFunc(func(b []byte) (int, error) {
			if left < 8<<10 {
				<-time.After(time.Minute)
			}
			n, err := slow.Read(b)
			left -= n
			return n, err
		}))
	}
	fmt.Println("ended", err)
}

func readerOf(data string, before func()) io.Reader {
	r := slowly(data, 8<<10)
	return readerFunc(func(b []byte) (int, error) { before(); return r.Read(b) })
}

// TestAKilledProcessLosesNothing kills the process that loads, again and again,
// and each time a bit later.
func TestAKilledProcessLosesNothing(t *testing.T) {
	dsn := pgtest.NewDB(t)
	db := openOn(t, dsn, loadTable)
	kills := 0
	for lines := 1; kills < 5; lines += 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), victimEnv+"="+dsn)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := ""
		for i := 0; i < lines && !strings.Contains(said, "ended"); i++ {
			if _, err := fmt.Fscanln(out, &said); err != nil {
				break
			}
		}
		if said == "ended" {
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
			t.Fatalf("it was done before it could be killed, after %d kills", kills)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		kills++
		// What the ledger says is what is there, at any time.
		expect(t, db, true, `select (select coalesce(sum(rows), 0) from pgkeel_loads) = (select count(*) from t)`)
	}
	before := value[int64](t, db, `select count(*) from pgkeel_loads`)
	res, err := ParallelLoad(t.Context(), db, loadOf("x"), strings.NewReader(loadData()))
	if err != nil || res.Rows != loadRows || res.Resumed < before || before == 0 || before == res.Chunks {
		t.Errorf("%d chunks before, %+v %v", before, res, err)
	}
	complete(t, db)
}

func TestALedgerThatCannotBeUsed(t *testing.T) {
	db := openDB(t, loadTable+`; create table wrong (load_id int)`)
	for name, ledger := range map[string]string{"another table": "wrong", "of no schema": "pg_catalog"} {
		load := loadOf("x")
		load.Ledger = table(ledger)
		if ledger == "pg_catalog" {
			load.Ledger = table("missing", "ledger")
		}
		if _, err := ParallelLoad(t.Context(), db, load, strings.NewReader(loadData())); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	expect(t, db, 0, `select count(*)::int from t`)
	if err := ForgetLoad(t.Context(), db, table("wrong"), "x"); err == nil {
		t.Error("deleted from another table")
	}
}

func TestALoadEndsWithItsContext(t *testing.T) {
	db := openDB(t, loadTable)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	load := loadOf("x")
	load.Into.Progress = Watch{Bytes: 1, Func: func(p Progress) {
		if p.Rows > loadRows/3 {
			cancel()
		}
	}}
	res, err := ParallelLoad(ctx, db, load, strings.NewReader(loadData()))
	if !errors.Is(err, context.Canceled) || res.Rows >= loadRows {
		t.Errorf("%+v %v", res, err)
	}
	if pause(ended(), 1) {
		t.Error("paused for nobody")
	}
	if res, err = ParallelLoad(t.Context(), db, loadOf("x"), strings.NewReader(loadData())); err != nil || res.Resumed == 0 {
		t.Errorf("%+v %v", res, err)
	}
	complete(t, db)
}

// A reader that blocks, as that of a pipe does, holds up neither the end of the
// context nor the error of a worker.
func TestALoadDoesNotWaitForAReaderThatBlocks(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	load := Load{Into: Into{Table: table("t")}, Format: CSV{}, ChunkBytes: minChunkBytes, Workers: 2}
	for name, c := range map[string]struct {
		data string
		want func(err error) bool
	}{
		"the context ends":   {"", func(err error) bool { return errors.Is(err, context.Canceled) }},
		"the data are wrong": {strings.Repeat("x\n", minChunkBytes), func(err error) bool { var at *CopyError; return errors.As(err, &at) }},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		blocked, release, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
		r := io.MultiReader(strings.NewReader(c.data), readerFunc(func([]byte) (int, error) {
			defer close(left)
			close(blocked)
			<-release
			return 0, errOfCaller
		}))
		if c.data == "" {
			go func() { <-blocked; cancel() }()
		}
		load.ID = name
		if _, err := ParallelLoad(ctx, db, load, r); !c.want(err) {
			t.Errorf("%s: %v", name, err)
		}
		if s := db.Stats(); s.InUse != 0 {
			t.Errorf("%s: %d connections in use", name, s.InUse)
		}
		close(release)
		<-left
		cancel()
	}
}

// What panics on a goroutine of the load panics on the caller's, and what ends its
// goroutine ends the load; no work goes on behind it.
func TestPanicsOfALoadAreTheCallers(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	rows := strings.Repeat("1\n", 3*minChunkBytes)
	load := Load{Into: Into{Table: table("t")}, Format: CSV{}, ChunkBytes: minChunkBytes, Workers: 2}
	broken := func(how func()) io.Reader {
		return io.MultiReader(strings.NewReader(rows), readerFunc(func([]byte) (int, error) { how(); return 0, nil }))
	}
	watch := func(how func()) Watch { return Watch{Bytes: 1, Func: func(Progress) { how() }} }
	explode, leave := func() { panic("boom") }, func() { runtime.Goexit() }
	for name, c := range map[string]struct {
		reader io.Reader
		watch  Watch
		panics any
	}{
		"reader panics":  {broken(explode), Watch{}, "boom"},
		"reader leaves":  {broken(leave), Watch{}, nil},
		"watcher panics": {strings.NewReader(rows), watch(explode), "boom"},
		"watcher leaves": {strings.NewReader(rows), watch(leave), nil},
	} {
		load.ID, load.Into.Progress = name, c.watch
		var err error
		r := panics(func() { _, err = ParallelLoad(t.Context(), db, load, c.reader) })
		var stopped *LoadError
		if r != c.panics || c.panics == nil && (!errors.As(err, &stopped) || !strings.Contains(err.Error(), "ended its goroutine")) {
			t.Errorf("%s: panicked with %v, %v", name, r, err)
		}
		if s := db.Stats(); s.InUse != 0 {
			t.Errorf("%s: %d connections in use", name, s.InUse)
		}
		load.Into.Progress = Watch{}
		mustExec(t, db, `delete from t`)
		if res, err := ParallelLoad(t.Context(), db, load, strings.NewReader(rows)); err != nil || res.Rows != 3*minChunkBytes {
			t.Errorf("%s: the second time: %+v %v", name, res, err)
		}
	}
}

func TestALoadOfAReaderThatReturnsNothing(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	load := Load{ID: "idle", Into: Into{Table: table("t")}, Format: CSV{}}
	_, err := ParallelLoad(t.Context(), db, load, readerFunc(func([]byte) (int, error) { return 0, nil }))
	if !errors.Is(err, io.ErrNoProgress) {
		t.Error(err)
	}
}

// A format may be given by a pointer: its methods are the pointer's as well.
func TestFormatsByPointer(t *testing.T) {
	db := openDB(t, `create table t (n int, v text)`)
	data := strings.Repeat("1,'a\nb'\n", 500)
	format := &CSV{Quote: '\''}
	load := Load{ID: "pointer", Into: Into{Table: table("t")}, Format: format, ChunkBytes: minChunkBytes}
	if res, err := ParallelLoad(t.Context(), db, load, strings.NewReader(data)); err != nil || res.Rows != 500 {
		t.Errorf("%+v %v", res, err)
	}
	var option *OptionError
	load.Format = &Binary{}
	if _, err := ParallelLoad(t.Context(), db, load, strings.NewReader(data)); !errors.As(err, &option) || option.Field != "Load.Format" {
		t.Error(err)
	}
	for _, none := range []Format{(*CSV)(nil), (*Text)(nil), (*Binary)(nil)} {
		if _, err := CopyFrom(t.Context(), db, load.Into, FromReader(strings.NewReader(data), none)); !errors.As(err, &option) || option.Field != "Format" {
			t.Error(err)
		}
	}
	if _, err := NewEncoder(io.Discard, &Text{}); err != nil {
		t.Error(err)
	}
}

func TestWhatIsTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"lost":        {io.ErrUnexpectedEOF, true},
		"unreachable": {&providers.UnreachableError{Err: io.EOF}, true},
		"exhausted":   {&providers.ExhaustedError{Err: context.DeadlineExceeded}, true},
		"killed":      {&providers.PGError{Code: "57P01"}, true},
		"deadlock":    {&providers.PGError{Code: "40P01"}, true},
		"data":        {&providers.PGError{Code: "22P02"}, false},
		"option":      {&OptionError{}, false},
		"closed":      {providers.ErrPoolClosed, false},
		"in use":      {providers.ErrConcurrentUse, false},
		"differs":     {fmt.Errorf("%w", ErrLoadDiffers), false},
	} {
		if isPassing(c.err) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
}
