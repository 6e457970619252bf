package bulk

import (
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
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
