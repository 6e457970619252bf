package sqltext_test

import (
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

const (
	clean    = sqltext.Effects(0)
	state    = sqltext.State
	prepared = sqltext.Prepared
)

func TestWhatIsLeft(t *testing.T) {
	for sql, want := range map[string]sqltext.Effects{
		"":                                      clean,
		"select 1":                              clean,
		"update t set a = 1":                    clean,
		"update t\n\tset a = 1":                 clean,
		"select reset from t":                   clean,
		"begin; select 1; abort":                clean,
		"insert into t values ('set x = 1')":    clean,
		"insert into t values ('a; set x = 1')": clean,
		`insert into t values (E'it\'s; set x = 1')`:           clean,
		"insert into t values ($$; set x = 1$$)":               clean,
		"insert into t values ($q$; $$ set x = 1$q$)":          clean,
		`select 1 as "; set x"`:                                clean,
		"select 1 -- ; set x = 1":                              clean,
		"-- set x = 1\nselect 1":                               clean,
		"/* ; set x = 1 */ select 1":                           clean,
		"/* a /* b */ set */ select 1":                         clean,
		"select $1, $2":                                        clean,
		"create table t (a int, temp int)":                     clean,
		"create table temperature ()":                          clean,
		"select temp from t":                                   clean,
		"alter table t set (fillfactor = 10)":                  clean,
		"with a as (select 1) select * from a":                 clean,
		"select pg_advisory_xact_lock(1)":                      clean,
		"notify a, 'b'":                                        clean,
		"explain select 1":                                     clean,
		"set local x = 1":                                      clean,
		"SET LOCAL\n\"x.y\" = 1":                               clean,
		"set transaction read only":                            clean,
		"set constraints all deferred":                         clean,
		"set local x = 1; set y = 2":                           state,
		"set local.x = 1":                                      state,
		"set local . x = 1":                                    state,
		"set local /* a setting of its own? */ .x = 1":         state,
		"set transaction.x = 1":                                state,
		"set session characteristics as transaction read only": state,
		"set \"local\" x":                                      state,
		"set":                                                  state,
		"SET x = 1":                                            state,
		" \n\t SeT x = 1":                                      state,
		"-- note\nset x = 1":                                   state,
		"-- note\r\n--\n/* a /* nested */ b */set x = 1":       state,
		"/**/set/**/x=1":                                       state,
		"select 1;set x = 1":                                   state,
		"select ';/*'; set x = 1":                              state,
		"select ';--'; set x = 1":                              state,
		"select '''; '; set x = 1":                             state,
		`select E'\\'; set x = 1`:                              state,
		`select E'a''\''; set x = 1 --'`:                       state,
		"select E'a'\n'\\''; set x = 1 --'":                    state,
		`select "a""b;"; set x = 1`:                            state,
		"select $a$ $b$ ; $a$; set x = 1":                      state,
		"select a$b$ from t; set x = 1":                        state,
		"reset all":                                            state,
		"listen c":                                             state,
		"load 'x'":                                             state,
		"do $$ begin perform 1; end $$":                        state,
		"call p()":                                             state,
		"execute q":                                            state,
		"explain analyze execute q":                            state,
		"explain (costs off, analyse) execute q":               state,
		"declare c cursor with hold for select 1":              state,
		"select set_config('a.b', 'c', false)":                 state,
		"select pg_catalog.set_config ('a.b', 'c', false)":     state,
		`select "set_config"('a.b', 'c', false)`:               state,
		`select U&"s\0065t_config"('a.b', 'c', false)`:         state,
		"update pg_settings set setting = 'x' where true":      state,
		"with s as (select setseed(0.5)) select 1 from s":      state,
		"select pg_advisory_lock(1)":                           state,
		"select pg_try_advisory_lock_shared(1)":                state,
		"create temp table t (a int)":                          state,
		"create local temporary view v as select 1":            state,
		"create local /* c */ temporary table a":               state,
		"create or replace temp view v as select 1":            state,
		"create table pg_temp.t (a int)":                       state,
		"select 1 into temp t":                                 state,
		"select 1 into local temp t":                           state,
		"select 1 into global temporary t":                     state,
		"select 1 into /* a table */ temp t":                   state,
		"select 1 into -- a table\n temp t":                    state,
		"prepare q as select 1":                                prepared,
		"deallocate all":                                       prepared,
		"discard all":                                          state | prepared,
		"select 1; prepare q as select 1; set x = 1":           state | prepared,
	} {
		if got := sqltext.Classify(sql).Left(); got != want {
			t.Errorf("%q: %b, want %b", sql, got, want)
		}
	}
}

func TestWhatControlsTransactions(t *testing.T) {
	const begins, ends, both = sqltext.Begins, sqltext.Ends, sqltext.Begins | sqltext.Ends
	for sql, want := range map[string]sqltext.Effects{
		"": clean, "select 1": clean, "savepoint a": clean, "release a": clean, "committed": clean, "commit1": clean,
		"commité": clean, "start": clean, "begin_work()": clean, "-- commit": clean, "/* /* nested */ commit": clean, "/*/ commit */ select 1": clean,
		"'commit'": clean, `"commit"`: clean, "select 'commit'": clean, "select ';commit'": clean, "select commit from t": clean,
		"select 1; select 'commit', 'com;m'": clean, "do $$ begin commit; end $$": clean,
		"rollback to a": clean, "ROLLBACK WORK TO a": clean, "rollback/* */transaction--\nto a": clean, "rollback work to savepoint s": clean,
		"prepare q as select 1": clean, "prepare transaction_list as select 1": clean,
		"begin": begins, "START transaction": begins, "begin; set x = 1": begins,
		"commit": ends, "Commit;": ends, "end": ends, "\v\fabort": ends, "rollback": ends, "rollback work": ends,
		"rollback transaction and chain": ends, "rollback /* to */": ends, "commit and chain": ends,
		" ; /* a */ ;-- b\r end": ends, "/* /* nested */ still */commit": ends, "/**/commit/**/": ends, "--\ncommit": ends,
		"select 1; COMMIT; select 2": ends, "select 1; -- a\n end": ends, "select 1; /* /* */ */ commit": ends,
		"prepare transaction 'a'": ends, "prepare /* /* */ a */ transaction 'a'": ends, "select 1; prepare transaction 'a'": ends,
		"commit prepared 'x'": ends, "rollback prepared 'x'": ends,
		`select 'a\''; commit; --'`: ends, `select 'a\'; commit`: ends, // by either way to read backslashes
		"rollback; rollback to s": ends, "rollback to s; rollback": ends,
		"begin; commit": both,
	} {
		got := sqltext.Classify(sql)
		if got&both != want || got.ControlTx() != (want != 0) {
			t.Errorf("%q: %b, want %b", sql, got, want)
		}
	}
}

func TestWhatIsProceduralOrCopiesIn(t *testing.T) {
	const procedural, copies = sqltext.Procedural, sqltext.CopiesIn
	for sql, want := range map[string]sqltext.Effects{
		"call p()": procedural, "select 1; DO $$ $$": procedural, "select call from t": clean,
		"copy t from stdin": copies, "/* all */ -- of it\n COPY t FROM\nSTDIN": copies, "select 1; copy t from stdin": copies,
		"copy t to stdout": clean, "copy t from '/tmp/x'": clean, "copy t from '/tmp/stdin'": clean,
		"insert into t values ('copy from stdin')": clean, "select stdin from copy": clean,
	} {
		if got := sqltext.Classify(sql) & (procedural | copies); got != want {
			t.Errorf("%q: %b, want %b", sql, got, want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	for _, s := range []string{"", "a", "*/", "'", `"`, "$$", "$a$", "E'\\", "/* /*", ";", "--", "\x00", "é", "set"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, comment, rest string) {
		sqltext.Classify(comment + rest) // never panics
		line := "-- " + strings.NewReplacer("\n", " ", "\r", " ").Replace(comment) + "\n"
		block := "/* " + strings.NewReplacer("/", " ", "*", " ").Replace(comment) + " /* nested */ */"
		for _, before := range []string{"", line, block, line + block + " ", "select 1; " + block} {
			if sqltext.Classify(before+"RESET "+rest)&state == 0 {
				t.Errorf("missed: %q", before+"RESET "+rest)
			}
		}
		if literal := "'" + strings.ReplaceAll(comment, "'", "''") + "'"; sqltext.Classify("select "+literal+"; reset x")&state == 0 {
			t.Errorf("missed behind %q", literal)
		}
	})
}
