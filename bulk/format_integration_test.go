package bulk

import (
	"compress/gzip"
	"strings"
	"testing"
)

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
