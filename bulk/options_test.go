package bulk

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/providers"
)

func TestStatementsOfCopyFrom(t *testing.T) {
	ab := []string{"a", "b"}
	for want, c := range map[string]struct {
		into   Into
		format Format
	}{
		`COPY "t" FROM STDIN (format text)`:                               {Into{Table: table("t")}, Text{}},
		`COPY "s"."t" ("a", "b") FROM STDIN (format binary)`:              {Into{Table: table("s", "t"), Columns: ab}, Binary{}},
		`COPY "s.t" FROM STDIN (format csv)`:                              {Into{Table: table("s.t")}, CSV{}},
		`COPY "a""b" ("c""d") FROM STDIN (format csv)`:                    {Into{Table: table(`a"b`), Columns: []string{`c"d`}}, CSV{}},
		`COPY "t" FROM STDIN (format csv, freeze true)`:                   {Into{Table: table("t"), Freeze: true}, CSV{}},
		`COPY "t" FROM STDIN (format csv, on_error ignore)`:               {Into{Table: table("t"), OnError: OnErrorIgnore}, CSV{}},
		`COPY "t" FROM STDIN (format binary, encoding 'UTF8')`:            {Into{Table: table("t")}, Binary{Encoding: "UTF8"}},
		"COPY \"t\" FROM STDIN (format csv) WHERE (a > 1 -- of course\n)": {Into{Table: table("t"), Where: "a > 1 -- of course"}, CSV{}},
		`COPY "t" FROM STDIN (format csv, on_error ignore, reject_limit '3', log_verbosity verbose)`: {
			Into{Table: table("t"), OnError: OnErrorIgnore, RejectLimit: 3, LogVerbosity: LogVerbose}, CSV{},
		},
		`COPY "t" FROM STDIN (format text, on_error ignore, log_verbosity silent)`: {
			Into{Table: table("t"), OnError: OnErrorIgnore, LogVerbosity: LogSilent}, Text{},
		},
		`COPY "t" FROM STDIN (format csv, delimiter ';', null 'it''s', default  E'\\D', header true, quote '|', escape  E'\\', ` +
			`force_not_null ("a"), force_null ("a", "b"), encoding 'latin1')`: {
			Into{Table: table("t")},
			CSV{
				Delimiter: ';', Null: text("it's"), Default: text(`\D`), Header: HeaderLine, Quote: '|', Escape: '\\',
				ForceNotNull: []string{"a"}, ForceNull: ab, Encoding: "latin1",
			},
		},
		`COPY "t" FROM STDIN (format csv, header match, force_not_null *, force_null *)`: {
			Into{Table: table("t")}, CSV{Header: HeaderMatch, ForceNotNullAll: true, ForceNullAll: true},
		},
		`COPY "t" FROM STDIN (format text, delimiter '|', null '', header match, encoding 'SQL_ASCII')`: {
			Into{Table: table("t")}, Text{Delimiter: '|', Null: text(""), Header: HeaderMatch, Encoding: "SQL_ASCII"},
		},
	} {
		if got, _ := c.into.statement(c.format); got != want {
			t.Errorf("%s\ninstead of\n%s", got, want)
		}
		var f faults
		c.into.validate(&f)
		c.into.validateData(&f, c.format)
		if err := f.join(); err != nil {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestStatementsOfCopyTo(t *testing.T) {
	for want, from := range map[string]From{
		`COPY "t" TO STDOUT (format text)`:                   {Table: table("t"), Format: Text{}},
		`COPY "s"."t" ("b", "a") TO STDOUT (format binary)`:  {Table: table("s", "t"), Columns: []string{"b", "a"}, Format: Binary{}},
		"COPY (select 1 -- one\n) TO STDOUT (format csv)":    {Query: "select 1 -- one", Format: CSV{}},
		`COPY "t" TO STDOUT (format csv, force_quote ("a"))`: {Table: table("t"), Format: CSV{ForceQuote: []string{"a"}}},
		`COPY "t" TO STDOUT (format csv, force_quote *)`:     {Table: table("t"), Format: CSV{ForceQuoteAll: true}},
		`COPY "t" TO STDOUT (format text, header true)`:      {Table: table("t"), Format: Text{Header: HeaderLine}},
	} {
		if got, _ := from.statement(); got != want {
			t.Errorf("%s\ninstead of\n%s", got, want)
		}
		var f faults
		from.validate(&f)
		if err := f.join(); err != nil {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestEveryFaultIsFoundAtOnce(t *testing.T) {
	long := strings.Repeat("x", 64)
	into := func(i Into, format Format) error {
		var f faults
		i.validate(&f)
		i.validateData(&f, format)
		return f.join()
	}
	from := func(s From) error {
		var f faults
		s.validate(&f)
		return f.join()
	}
	ok := Into{Table: table("t")}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"no table":      {into(Into{}, CSV{}), "Into.Table"},
		"empty part":    {into(Into{Table: table("s", "")}, CSV{}), "Into.Table"},
		"three parts":   {into(Into{Table: table("d", "s", "t")}, CSV{}), "Into.Table"},
		"NUL and long":  {into(Into{Table: table("a\x00", long), Columns: []string{"a", "", "a", long}}, CSV{}), "Into.Table Into.Table Into.Columns[1] Into.Columns[2] Into.Columns[3]"},
		"no format":     {into(ok, nil), "Format"},
		"where":         {into(Into{Table: table("t"), Where: " \n"}, Text{}), "Into.Where"},
		"where NUL":     {into(Into{Table: table("t"), Where: "a\x00"}, Text{}), "Into.Where"},
		"rejects alone": {into(Into{Table: table("t"), RejectLimit: 1, LogVerbosity: LogVerbose}, Text{}), "Into.RejectLimit Into.LogVerbosity"},
		"out of range":  {into(Into{Table: table("t"), OnError: 9, RejectLimit: -1, LogVerbosity: 9}, Text{}), "Into.OnError Into.RejectLimit Into.LogVerbosity Into.LogVerbosity"},
		"binary errors": {into(Into{Table: table("t"), OnError: OnErrorIgnore}, Binary{}), "Into.OnError"},
		"progress": {
			into(Into{Table: table("t"), Progress: Watch{Interval: -1, Bytes: -1}}, Text{}),
			"Into.Progress.Interval Into.Progress.Bytes Into.Progress.Func",
		},
		"two throttles":    {into(Into{Table: table("t"), Progress: Watch{Func: func(Progress) {}, Interval: 1, Bytes: 1}}, Text{}), "Into.Progress.Bytes"},
		"delimiter":        {into(ok, CSV{Delimiter: '\n', Quote: '\r', Escape: 0xff}), "Format.Delimiter Format.Quote Format.Escape"},
		"same quote":       {into(ok, CSV{Delimiter: '"'}), "Format.Quote"},
		"text delimiter":   {into(ok, Text{Delimiter: 'n'}), "Format.Delimiter"},
		"markers":          {into(ok, CSV{Null: text("a\n"), Default: text("a,b\x00")}), "Format.Null Format.Default Format.Default"},
		"quote in markers": {into(ok, CSV{Null: text(`"`)}), "Format.Null"},
		"same markers":     {into(ok, CSV{Null: text("-"), Default: text("-")}), "Format.Default"},
		"default of null":  {into(ok, CSV{Default: text("")}), "Format.Default"},
		"escape at end":    {into(ok, Text{Null: text(`x\`), Default: text(`x\\`)}), "Format.Null"},
		"text of null":     {into(ok, Text{Default: text(`\N`)}), "Format.Default"},
		"header":           {into(ok, Text{Header: 9}), "Format.Header"},
		"encoding":         {into(ok, Binary{Encoding: "\x00"}), "Format.Encoding"},
		"force":            {into(ok, CSV{ForceQuote: []string{"a"}, ForceNull: []string{"a"}, ForceNullAll: true}), "Format.ForceQuote Format.ForceNull"},
		"force others":     {into(Into{Table: table("t"), Columns: []string{"a"}}, CSV{ForceNotNull: []string{"b"}}), "Format.ForceNotNull"},
		"nothing":          {from(From{Format: CSV{}}), "From.Table"},
		"both":             {from(From{Format: CSV{}, Table: table("t"), Query: "select 1"}), "From.Table"},
		"blank query":      {from(From{Format: CSV{}, Query: " ", Columns: []string{"a"}}), "From.Query From.Columns"},
		"query NUL":        {from(From{Format: CSV{}, Query: "\x00"}), "From.Query"},
		"to": {
			from(From{Query: "select 1", Format: CSV{Header: HeaderMatch, Default: text("-"), ForceNull: []string{"a"}, ForceNotNullAll: true}}),
			"Format.Default Format.Header Format.ForceNotNull Format.ForceNull",
		},
	} {
		if got := faultsOf(c.err); got != c.want {
			t.Errorf("%s: %q instead of %q: %v", name, got, c.want, c.err)
		}
		if providers.OutcomeOf(c.err) != providers.OutcomeNotSent {
			t.Errorf("%s: outcome %s", name, providers.OutcomeOf(c.err))
		}
	}
}

func TestWhatTheServerIsTooOldForIsRefusedWithTheFix(t *testing.T) {
	db := openDB(t, `create table t (a int, b text)`)
	for field, c := range map[string]struct {
		major  int
		into   Into
		format Format
	}{
		"Into.OnError":           {17, Into{Table: table("t"), OnError: OnErrorIgnore}, CSV{}},
		"Into.RejectLimit":       {18, Into{Table: table("t"), OnError: OnErrorIgnore, RejectLimit: 1}, CSV{}},
		"Into.LogVerbosity":      {18, Into{Table: table("t"), OnError: OnErrorIgnore, LogVerbosity: LogSilent}, CSV{}},
		"Format.Default":         {16, Into{Table: table("t")}, CSV{Default: text("-")}},
		"Format.ForceNullAll":    {17, Into{Table: table("t")}, CSV{ForceNullAll: true}},
		"Format.ForceNotNullAll": {17, Into{Table: table("t")}, CSV{ForceNotNullAll: true}},
		"Format.Header":          {15, Into{Table: table("t")}, CSV{Header: HeaderMatch}},
	} {
		_, needs := c.into.statement(c.format)
		for version, refused := range map[int]bool{(c.major - 1) * 10000: true, c.major*10000 + 3: false} {
			err := tooOld(version, needs)
			found := strings.Contains(faultsOf(err), field)
			if found != refused {
				t.Errorf("%s with %d: %v", field, version, err)
			}
		}
		serverMajor := value[int](t, db, `select current_setting('server_version_num')::int / 10000`)
		_, err := CopyFrom(t.Context(), db, c.into, FromReader(strings.NewReader(""), c.format))
		if refused := strings.Contains(faultsOf(err), field); refused != (serverMajor < c.major) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := tooOld(140000, []need{{"Format.Header", 15, "use CSV"}}); !strings.Contains(err.Error(), "needs PostgreSQL 15, and the server is 14; use CSV") {
		t.Error(err)
	}
	if _, needs := (&From{Table: table("t"), Format: Text{Header: HeaderLine}}).statement(); len(needs) != 1 || needs[0].major != 15 {
		t.Errorf("%v", needs)
	}
	// Nobody can be asked.
	_, err := CopyFrom(ended(), db, Into{Table: table("t")}, FromReader(strings.NewReader(""), CSV{Header: HeaderMatch}))
	if providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("%v", err)
	}
	_, err = CopyTo(ended(), db, From{Table: table("t"), Format: Text{Header: HeaderLine}}, &strings.Builder{})
	if providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("%v", err)
	}
	_, err = ParallelLoad(ended(), db, Load{ID: "x", Into: Into{Table: table("t")}, Format: CSV{Header: HeaderMatch}}, strings.NewReader(""))
	if providers.OutcomeOf(err) != providers.OutcomeNotSent {
		t.Errorf("%v", err)
	}
}

// TestTrap29ASchemaQualifiedTableIsTwoParts: a dot inside of a name is a dot.
func TestTrap29ASchemaQualifiedTableIsTwoParts(t *testing.T) {
	db := openDB(t, `create schema s; create table s.t (n int); create table "s.t" (n int)`)
	for i, name := range []pgx.Identifier{{"s", "t"}, {"s.t"}} {
		into := Into{Table: name, Columns: []string{"n"}}
		if _, err := CopyFrom(t.Context(), db, into, FromSlice(make([]int, i+1))); err != nil {
			t.Fatal(err)
		}
		if _, err := CopyFrom(t.Context(), db, into, FromReader(strings.NewReader("1\n"), CSV{})); err != nil {
			t.Fatal(err)
		}
		expect(t, db, i+2, `select count(*)::int from `+name.Sanitize())
	}
	for _, src := range []Source{FromSlice([]int{1}), FromReader(strings.NewReader("1\n"), CSV{})} {
		_, err := CopyFrom(t.Context(), db, Into{Table: table("s.missing"), Columns: []string{"n"}}, src)
		if err == nil || !strings.Contains(err.Error(), `pgx.Identifier{"s", "missing"}`) {
			t.Errorf("%v", err)
		}
		_, err = CopyFrom(t.Context(), db, Into{Table: table("missing"), Columns: []string{"n"}}, src)
		if err == nil || strings.Contains(err.Error(), "pgx.Identifier") {
			t.Errorf("%v", err)
		}
	}
}

func TestLiteralsAreQuotedSafely(t *testing.T) {
	db := openDB(t, "")
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, conforming := range []string{"on", "off"} {
		mustExec(t, conn, "set backslash_quote = off; set escape_string_warning = off; set standard_conforming_strings = "+conforming)
		for _, s := range []string{"", "plain", "it's", `'; drop table t; --`, `a\b`, `\`, `\'`, "ü\n", `E'x'`, `$$`} {
			if got := out(t, conn, "select "+QuoteLiteral(s), Binary{}); !strings.HasSuffix(got, s+"\xff\xff") {
				t.Errorf("%q became %q", s, got)
			}
		}
	}
}

func TestNothingIsSentWithoutATarget(t *testing.T) {
	_, err := CopyFrom(t.Context(), nil, Into{Table: table("t"), Columns: []string{"n"}}, nil)
	if faultsOf(err) != "on src" {
		t.Errorf("%v", err)
	}
	_, err = CopyTo(t.Context(), nil, From{Table: table("t")}, nil)
	if faultsOf(err) != "on w" {
		t.Errorf("%v", err)
	}
	_, err = CopyUpsert[pgkeel.Tx](t.Context(), nil, Upsert{Into: Into{Table: table("t"), Columns: []string{"k", "v"}}, Conflict: []string{"k"}}, nil)
	if faultsOf(err) != "on src" {
		t.Errorf("%v", err)
	}
	_, err = CopyUpsertTx(t.Context(), nil, Upsert{}, FromSlice([]int{}))
	if !strings.HasPrefix(faultsOf(err), "on Upsert.Into.Table") && !strings.HasPrefix(faultsOf(err), "on Into.Table") {
		t.Errorf("%v", err)
	}
	_, err = ParallelLoad[pgkeel.Tx](t.Context(), nil, Load{ID: "x", Into: Into{Table: table("t")}, Format: CSV{}}, nil)
	if faultsOf(err) != "on r" {
		t.Errorf("%v", err)
	}
	if err := ForgetLoad(t.Context(), nil, table("a", "b", "c"), ""); faultsOf(err) != "on table id" {
		t.Errorf("%v", err)
	}
	if _, err := NewEncoder(nil, nil); faultsOf(err) != "w Format" {
		t.Errorf("%v", err)
	}
}

func TestAClosedHandleAndADeadContext(t *testing.T) {
	db := openDB(t, `create table t (k int primary key, v text)`)
	into := Into{Table: table("t"), Columns: []string{"k", "v"}}
	everything := func(ctx context.Context) []error {
		_, rows := CopyFrom(ctx, db, into, FromSlice([][]any{{1, "x"}}))
		_, in := CopyFrom(ctx, db, into, FromReader(strings.NewReader("1,x\n"), CSV{}))
		_, to := CopyTo(ctx, db, From{Table: table("t")}, &strings.Builder{})
		_, upsert := CopyUpsert(ctx, db, Upsert{Into: into, Conflict: []string{"k"}}, FromSlice([][]any{{1, "x"}}))
		_, load := ParallelLoad(ctx, db, Load{ID: "x", Into: into, Format: CSV{}}, strings.NewReader("1,x\n"))
		var stopped *LoadError
		if !errors.As(load, &stopped) {
			t.Errorf("%v", load)
		} else {
			load = stopped.Err
		}
		return []error{rows, in, to, upsert, load}
	}
	for i, err := range everything(ended()) {
		if providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("%d: %v", i, err)
		}
	}
	expect(t, db, 0, `select count(*)::int from t`)
	if err := db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, err := range everything(t.Context()) {
		if !errors.Is(err, providers.ErrPoolClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
