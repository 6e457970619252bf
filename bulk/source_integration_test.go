package bulk

import (
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/providers"
)

type address struct{ City, Zip string }

type base struct {
	ID int64 `db:"person_id"`
}

type person struct {
	base
	FullName string
	Mail     *string
	Secret   string `db:"-"`
	Home     address
	Work     *address
	Born     time.Time
}

const peopleTable = `create table people (person_id bigint, full_name text, mail text, "home.city" text, "work.city" text, born date)`

var peopleColumns = []string{"person_id", "full_name", "mail", "home.city", "work.city", "born"}

func people(n int) []person {
	all := make([]person, n)
	for i := range all {
		all[i] = person{base: base{int64(i)}, FullName: fmt.Sprintf("p%d", i), Home: address{City: "Ghent"}, Born: time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)}
		if i%2 == 0 {
			all[i].Mail, all[i].Work = &all[i].FullName, &address{City: "Bruges"}
		}
	}
	return all
}

func pointers[T any](items []T) []*T {
	all := make([]*T, len(items))
	for i := range items {
		all[i] = &items[i]
	}
	return all
}

func maps(n int) []map[string]any {
	all := make([]map[string]any, n)
	for i, p := range people(n) {
		all[i] = map[string]any{"person_id": p.ID, "full_name": p.FullName, "mail": p.Mail, "home.city": "Ghent", "work.city": nil, "born": p.Born, "more": 1}
		if p.Work != nil {
			all[i]["work.city"] = p.Work.City
		}
	}
	return all
}

func rows(n int) [][]any {
	all := make([][]any, n)
	for i, m := range maps(n) {
		for _, c := range peopleColumns {
			all[i] = append(all[i], m[c])
		}
	}
	return all
}

func withErrors[T any](items []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, item := range items {
			if !yield(item, nil) {
				return
			}
		}
	}
}

// sent is a channel of items, which is closed at its end.
func sent[T any](items []T) <-chan T {
	c := make(chan T, len(items))
	for _, item := range items {
		c <- item
	}
	close(c)
	return c
}

func TestEverySourceCopiesTheSame(t *testing.T) {
	const n = 500
	sources := func() map[string]Source {
		return map[string]Source{
			"structs":      FromSlice(people(n)),
			"pointers":     FromSlice(pointers(people(n))),
			"maps":         FromSlice(maps(n)),
			"rows":         FromSlice(rows(n)),
			"iter.Seq":     FromSeq(slices.Values(people(n))),
			"iter.Seq2":    FromSeq2(withErrors(pointers(people(n)))),
			"channel":      FromChan(sent(maps(n))),
			"pgx's source": FromSource(pgx.CopyFromRows(rows(n))),
		}
	}
	onEach(t, peopleTable, func(t *testing.T, on Target) {
		for name, src := range sources() {
			mustExec(t, on, `truncate people`)
			res, err := CopyFrom(t.Context(), on, Into{Table: table("people"), Columns: peopleColumns}, src)
			if err != nil || res.Rows != n {
				t.Fatalf("%s: %+v %v", name, res, err)
			}
			expect(t, on, "500 124750 250 250 Ghent 2000-01-02", `select concat_ws(' ', count(*), sum(person_id),
				count(mail) filter (where mail = full_name), count("work.city") filter (where "work.city" = 'Bruges'),
				min("home.city"), max(born)) from people`)
		}
	})
}

func TestSourcesOfOneColumn(t *testing.T) {
	db := openDB(t, `create table t (v text)`)
	into := Into{Table: table("t"), Columns: []string{"v"}}
	for name, src := range map[string]Source{
		"strings":  FromSlice([]string{"a", "b"}),
		"pointers": FromSlice([]*string{text("a"), nil}),
		"sql.Null": FromSeq(slices.Values([]sql.Null[string]{{V: "a", Valid: true}, {}})),
		"any":      FromSlice([]any{"a", nil}),
	} {
		mustExec(t, db, `truncate t`)
		if res, err := CopyFrom(t.Context(), db, into, src); err != nil || res.Rows != 2 {
			t.Errorf("%s: %+v %v", name, res, err)
		}
		expect(t, db, 1, `select count(*)::int from t where v = 'a'`)
	}
	mustExec(t, db, `create table times (v timestamptz)`)
	into.Table = table("times")
	if _, err := CopyFrom(t.Context(), db, into, FromSlice([]time.Time{time.Now()})); err != nil {
		t.Error(err)
	}
	if _, err := CopyFrom(t.Context(), db, into, FromSlice([]time.Time{})); err != nil {
		t.Errorf("an empty source: %v", err)
	}
}

func TestRowsOfAnotherQueryAreASource(t *testing.T) {
	db := openDB(t, `create table a as select i as id, 'name ' || i as name from generate_series(1, 1000) i; create table b (like a)`)
	src := FromSeq2(pgkeel.Each[struct {
		ID   int32
		Name string
	}](t.Context(), db, `select * from a`))
	res, err := CopyFrom(t.Context(), db, Into{Table: table("b"), Columns: []string{"id", "name"}}, src)
	if err != nil || res.Rows != 1000 {
		t.Errorf("%+v %v", res, err)
	}
	expect(t, db, 0, `select count(*)::int from (table a except table b) x`)
}

func TestSourcesThatDoNotFit(t *testing.T) {
	db := openDB(t, `create table t (a int, b text)`)
	ab := Into{Table: table("t"), Columns: []string{"a", "b"}}
	type part struct{ A int }
	for name, c := range map[string]struct {
		into Into
		src  Source
		want string
	}{
		"no columns":    {Into{Table: table("t")}, FromSlice([]part{}), "Into.Columns"},
		"no field":      {ab, FromSlice([]part{}), "leave the column out"},
		"no field, seq": {ab, FromSeq(slices.Values([]part{})), "leave the column out"},
		"no field, ch":  {ab, FromChan(sent([]part{})), "leave the column out"},
		"scalars":       {ab, FromSlice([]int{1}), "a int holds one column, but there are 2"},
		"nil seq":       {ab, FromSeq[part](nil), "is made of nil"},
		"nil seq2":      {ab, FromSeq2[part](nil), "is made of nil"},
		"nil channel":   {ab, FromChan[part](nil), "is made of nil"},
		"nil pgx":       {ab, FromSource(nil), "is made of nil"},
		"nil reader":    {ab, FromReader(nil, CSV{}), "the reader is nil"},
		"nil records":   {ab, FromRecords(nil, CSV{}), "is made of nil"},
		"header":        {ab, FromRecords(withErrors([][][]byte{}), CSV{Header: HeaderLine}), "records have none"},
		"options of data": {
			Into{
				Table: table("t"), Columns: []string{"a"}, Where: "a > 1", Freeze: true, OnError: OnErrorIgnore, RejectLimit: 1,
				LogVerbosity: LogVerbose, Compression: Gzip{},
			}, FromSlice([]int{}), "Into.Where: has an effect with FromReader",
		},
	} {
		_, err := CopyFrom(t.Context(), db, c.into, c.src)
		var fault *OptionError
		if !errors.As(err, &fault) || !strings.Contains(err.Error(), c.want) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := CopyFrom(t.Context(), db, ab, FromRecords(nil, nil))
	if faultsOf(err) != "src Format" {
		t.Errorf("%v", err)
	}
	_, err = CopyFrom(t.Context(), db, Into{Table: table("t"), Compression: Gzip{}}, FromRecords(withErrors([][][]byte{}), CSV{}))
	if faultsOf(err) != "Into.Compression" {
		t.Errorf("%v", err)
	}
}

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

func TestFormatsThereAndBack(t *testing.T) {
	long := strings.Repeat("x,\"\\\n\t", 20_000)
	onEach(t, `create table t (a text, b text, c text)`, func(t *testing.T, on Target) {
		var records [][][]byte
		for i, s := range seeds {
			if strings.Contains(s, "\x00") {
				continue
			}
			records = append(records, [][]byte{[]byte(s), nil, []byte(seeds[len(seeds)-1-i])})
			if strings.Contains(seeds[len(seeds)-1-i], "\x00") {
				records[len(records)-1][2] = []byte(long)
			}
		}
		var want string
		for _, format := range []Format{
			CSV{},
			Text{},
			Binary{},
			CSV{Delimiter: ';', Quote: '\'', Escape: '\\', Null: text("NULL")},
			CSV{Delimiter: '\t', Quote: '|'},
			Text{Delimiter: '|', Null: text("NULL")},
			Text{Delimiter: ',', Null: text("x")},
			CSV{Null: text("a")},
		} {
			mustExec(t, on, `truncate t`)
			res, err := CopyFrom(t.Context(), on, Into{Table: table("t")}, FromRecords(withErrors(records), format))
			if err != nil || res.Rows != int64(len(records)) || res.Bytes == 0 {
				t.Fatalf("%#v: %+v %v", format, res, err)
			}
			got := out(t, on, `select * from t`, Binary{})
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("%#v: other data", format)
			}
			if f, ok := format.(Text); ok && f.Null != nil {
				continue // the server itself does not tell such a value from NULL
			}
			// And what the server writes is read as it was.
			written := out(t, on, `select * from t`, format)
			mustExec(t, on, `truncate t`)
			if _, err := CopyFrom(t.Context(), on, Into{Table: table("t")}, FromReader(strings.NewReader(written), format)); err != nil {
				t.Fatalf("%#v: %v", format, err)
			}
			if out(t, on, `select * from t`, Binary{}) != want {
				t.Errorf("%#v: other data the second time", format)
			}
		}
	})
}

func TestOptionsOfTheData(t *testing.T) {
	db := openDB(t, `create table t (a int, b text default 'dflt')`)
	for name, c := range map[string]struct {
		into   Into
		format Format
		data   string
		want   string
	}{
		"where":           {Into{Where: "a > 1 and b <> " + QuoteLiteral(`it's \`)}, CSV{}, "1,x\n2,y\n3,it's \\\n", "2 y"},
		"columns":         {Into{Columns: []string{"a"}}, CSV{}, "1\n", "1 dflt"},
		"header line":     {Into{}, CSV{Header: HeaderLine}, "whatever,else\n1,x\n", "1 x"},
		"header match":    {Into{Columns: []string{"b", "a"}}, CSV{Header: HeaderMatch}, "b,a\nx,1\n", "1 x"},
		"text header":     {Into{}, Text{Header: HeaderMatch}, "a\tb\n1\tx\n", "1 x"},
		"force not null":  {Into{}, CSV{ForceNotNull: []string{"b"}}, "1,\n", "1 "},
		"force null":      {Into{}, CSV{Null: text("-"), ForceNull: []string{"b"}}, "1,\"-\"\n", "1"},
		"latin1":          {Into{}, CSV{Encoding: "LATIN1"}, "1,\xfc\n", "1 ü"},
		"other markers":   {Into{}, Text{Delimiter: ';', Null: text("nil")}, "1;nil\n", "1"},
		"gzip":            {Into{Compression: Gzip{}}, Text{}, gzipped("1\tx\n"), "1 x"},
		"no data":         {Into{}, CSV{}, "", ""},
		"no last newline": {Into{}, CSV{}, "1,x", "1 x"},
	} {
		mustExec(t, db, `truncate t`)
		c.into.Table = table("t")
		if _, err := CopyFrom(t.Context(), db, c.into, FromReader(strings.NewReader(c.data), c.format)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := value[*string](t, db, `select string_agg(concat_ws(' ', a, b), '; ') from t`); c.want != "" && (got == nil || *got != c.want) || c.want == "" && got != nil {
			t.Errorf("%s: %v instead of %q", name, got, c.want)
		}
	}
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	mustExec(t, tx, `create table frozen (n int)`)
	if _, err := CopyFrom(t.Context(), tx, Into{Table: table("frozen"), Freeze: true}, FromReader(strings.NewReader("1\n"), Text{})); err != nil {
		t.Error(err)
	}
}

// What only newer servers have works there: the kit may run on any.
func TestOptionsOfNewerServers(t *testing.T) {
	db := openDB(t, `create table t (a int, b text default 'dflt')`)
	major := value[int](t, db, `select current_setting('server_version_num')::int / 10000`)
	for name, c := range map[string]struct {
		since  int
		into   Into
		format Format
		data   string
		want   string
		fails  string
	}{
		"default":            {since: 16, format: CSV{Default: text(`\D`)}, data: "1,\\D\n", want: "1 dflt"},
		"default, text":      {since: 16, format: Text{Default: text(`\D`)}, data: "1\t\\D\n", want: "1 dflt"},
		"force null all":     {since: 17, format: CSV{ForceNullAll: true}, data: "1,\"\"\n", want: "1"},
		"force not null all": {since: 17, into: Into{Columns: []string{"b"}}, format: CSV{ForceNotNullAll: true}, data: "\n", want: ""},
		"on error":           {since: 17, into: Into{OnError: OnErrorIgnore}, format: CSV{}, data: "x,x\n1,x\n", want: "1 x"},
		"on error, text":     {since: 17, into: Into{OnError: OnErrorIgnore, LogVerbosity: LogVerbose}, format: Text{}, data: "x\tx\n1\tx\n", want: "1 x"},
		"silent":             {since: 18, into: Into{OnError: OnErrorIgnore, LogVerbosity: LogSilent}, format: CSV{}, data: "x,x\n1,x\n", want: "1 x"},
		"rejects":            {since: 18, into: Into{OnError: OnErrorIgnore, RejectLimit: 1}, format: CSV{}, data: "x,x\n1,x\n", want: "1 x"},
		"too many rejects": {
			since: 18, into: Into{OnError: OnErrorIgnore, RejectLimit: 1}, format: CSV{}, data: "x,x\n1,x\nsecret,x\n",
			fails: `line 3, column "a", near "xxxxxx": skipped more than REJECT_LIMIT (1) rows`,
		},
	} {
		if major < c.since {
			continue
		}
		mustExec(t, db, `truncate t`)
		c.into.Table = table("t")
		_, err := CopyFrom(t.Context(), db, c.into, FromReader(strings.NewReader(c.data), c.format))
		if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.fails == "" {
			expect(t, db, c.want, `select concat_ws(' ', a, b) from t`)
		}
	}
}

func gzipped(s string) string {
	var b strings.Builder
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(s))
	_ = w.Close()
	return b.String()
}

func TestBrokenArchives(t *testing.T) {
	db := openDB(t, `create table t (n int)`)
	whole := gzipped(strings.Repeat("1\n", 100_000))
	for name, data := range map[string]string{"torn": whole[:len(whole)-6], "none": "plain", "empty": "", "spoilt": whole[:20] + "x" + whole[21:]} {
		for _, load := range []func(into Into) error{
			func(into Into) error {
				_, err := CopyFrom(t.Context(), db, into, FromReader(strings.NewReader(data), Text{}))
				return err
			},
			func(into Into) error {
				_, err := ParallelLoad(t.Context(), db, Load{ID: name, Into: into, Format: Text{}}, strings.NewReader(data))
				return err
			},
		} {
			if err := load(Into{Table: table("t"), Compression: Gzip{}}); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		expect(t, db, 0, `select count(*)::int from t`)
	}
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
