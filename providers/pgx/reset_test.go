package pgx

import (
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestClassify(t *testing.T) {
	const clean, state, prepared = dirt(0), dirtState, dirtPrepared
	for _, tc := range []struct {
		sql  string
		want dirt
	}{
		{"", clean},
		{"select 1", clean},
		{"update t set a = 1", clean},
		{"update t\n\tset a = 1", clean},
		{"insert into t values ('set x = 1')", clean},
		{"insert into t values ('a; set x = 1')", clean},
		{"insert into t values (E'it\\'s; set x = 1')", clean},
		{"insert into t values ($$; set x = 1$$)", clean},
		{"insert into t values ($q$; $$ set x = 1$q$)", clean},
		{`select 1 as "; set x"`, clean},
		{"select 1 -- ; set x = 1", clean},
		{"-- set x = 1\nselect 1", clean},
		{"/* ; set x = 1 */ select 1", clean},
		{"select $1, $2", clean},
		{"begin; select 1; commit", clean},
		{"create table t (temp int)", state}, // ambiguous: alarms
		{"create table t (a int)", clean},
		{"select temp from t", clean},
		{"select pg_advisory_xact_lock(1)", clean},
		{"notify a, 'b'", clean},
		{"SET x = 1", state},
		{"set local x = 1", state},
		{" \n\t SeT x = 1", state},
		{"-- note\nset x = 1", state},
		{"-- note\r\n--\n/* a /* nested */ b */set x = 1", state},
		{"/**/set/**/x=1", state},
		{"select 1;set x = 1", state},
		{"select ';/*'; set x = 1", state},
		{"select ';--'; set x = 1", state},
		{"select '''; '; set x = 1", state},
		{`select E'\\'; set x = 1`, state},
		{`select "a""b;"; set x = 1`, state},
		{"select $a$ $b$ ; $a$; set x = 1", state},
		{"select a$b$ from t; set x = 1", state},
		{"reset all", state},
		{"listen c", state},
		{"load 'x'", state},
		{"do $$ begin perform 1; end $$", state},
		{"call p()", state},
		{"execute q", state},
		{"declare c cursor with hold for select 1", state},
		{"select set_config('a.b', 'c', false)", state},
		{"select pg_catalog.set_config ('a.b', 'c', false)", state},
		{`select "set_config"('a.b', 'c', false)`, state},
		{`select U&"s\0065t_config"('a.b', 'c', false)`, state},
		{"update pg_settings set setting = 'x' where name = 'work_mem'", state},
		{"with s as (select setseed(0.5)) select 1 from s", state},
		{"select pg_advisory_lock(1)", state},
		{"select pg_try_advisory_lock_shared(1)", state},
		{"create temp table t (a int)", state},
		{"create local temporary view v as select 1", state},
		{"create or replace temp view v as select 1", state},
		{"create table pg_temp.t (a int)", state},
		{"select 1 into temp t", state},
		{"select 1 into local temp t", state},
		{"select 1 into global temporary t", state},
		{"select 1 into /* a table */ temp t", state},
		{"select 1 into -- a table\n temp t", state},
		{"prepare q as select 1", prepared},
		{"deallocate all", prepared},
		{"discard all", state | prepared},
		{"select 1; prepare q as select 1; set x = 1", state | prepared},
		{"'", clean},
		{"$", clean},
		{"/*", clean},
		{"--", clean},
		{"e'\\", clean},
		{"$a", clean},
		{"$$", clean},
		{`"`, clean},
	} {
		if got := classify(tc.sql) &^ noDirt; got != tc.want {
			t.Errorf("classify(%q) = %b, want %b", tc.sql, got, tc.want)
		}
	}
}

func TestClassifyTransactional(t *testing.T) {
	for sql, want := range map[string]bool{
		"begin": true, "START transaction": true, "commit": true, "end": true, "abort": true, "rollback": true,
		"rollback work": true, "select 1; commit": true, "/* x */ commit": true, "-- x\nrollback": true,
		"prepare transaction 'x'": true, "commit prepared 'x'": true, "rollback prepared 'x'": true,
		"rollback; rollback to s": true, "rollback to s; rollback": true, "commit and chain": true,
		"rollback to s": false, "rollback work to savepoint s": false, "savepoint s": false, "release s": false,
		"select 'commit'": false, "select commit from t": false, `select "begin"`: false, "do $$ begin null; end $$": false,
		"prepare q as select 1": false, "prepare transaction_list as select 1": false, "": false,
	} {
		if got := classify(sql)&transactional != 0; got != want {
			t.Errorf("%q: %v", sql, got)
		}
	}
}

func FuzzClassify(f *testing.F) {
	for _, s := range []string{"", "a", "*/", "'", `"`, "$$", "$a$", "E'\\", "/* /*", ";", "--", "\x00", "é", "set"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, comment, rest string) {
		classify(comment + rest) // never panics
		line := "-- " + strings.ReplaceAll(comment, "\n", " ") + "\n"
		block := "/* " + strings.NewReplacer("/", " ", "*", " ").Replace(comment) + " /* nested */ */"
		for _, before := range []string{"", line, block, line + block + " ", "select 1; " + block} {
			if classify(before+"SET "+rest)&dirtState == 0 {
				t.Errorf("missed: %q", before+"SET "+rest)
			}
		}
		if literal := "'" + strings.ReplaceAll(comment, "'", "''") + "'"; classify("select "+literal+"; set x = 1")&dirtState == 0 {
			t.Errorf("missed behind %q", literal)
		}
	})
}

func TestClassifierRemembers(t *testing.T) {
	var c classifier
	var learners sync.WaitGroup
	for range 4 {
		learners.Go(func() {
			for i := range classifierBound {
				if got := c.classify("set x = " + strconv.Itoa(i)); got != dirtState {
					t.Errorf("%b", got)
				}
			}
		})
	}
	learners.Wait()
	if n := len(*c.known.Load()); n != classifierBound {
		t.Errorf("%d statements known, want %d", n, classifierBound)
	}
	if got := c.classify("listen beyond_the_bound"); got != dirtState {
		t.Errorf("beyond the bound: %b", got)
	}
	if n := len(*c.known.Load()); n != classifierBound {
		t.Errorf("it goes on learning: %d", n)
	}
	if n := testing.AllocsPerRun(100, func() { c.classify("set x = 1") }); n != 0 {
		t.Errorf("a known statement costs %v allocations", n)
	}
}
