package stdsql

import "testing"

func TestClassify(t *testing.T) {
	for sql, want := range map[string]dirt{
		"":                                         0,
		"select 1":                                 0,
		"update t\nset n = 1":                      0,
		"insert into t values ('set x')":           0,
		"select 'x' -- set":                        0,
		"select reset from t":                      0,
		"set local x = 1":                          0,
		"SET TRANSACTION READ ONLY":                0,
		"set constraints all deferred":             0,
		"create table temperature ()":              0,
		"set x = 1":                                dirtState,
		"  SET x = 1":                              dirtState,
		"select 1;set x = 1":                       dirtState,
		"select 1; -- c\n /* d */ set x = 1":       dirtState,
		"/* a */ -- b\nreset all":                  dirtState,
		"/* a /* b */ set */ select 1":             dirtState,
		"set local x = 1; set y = 2":               dirtState,
		"listen a":                                 dirtState,
		"select set_config('a', 'b', false)":       dirtState,
		"select pg_try_advisory_lock_shared(1)":    dirtState,
		"create temp table a ()":                   dirtState,
		"create temporary view a as select 1":      dirtState,
		"create local /* c */ temporary table a":   dirtState,
		"create table pg_temp.a ()":                dirtState,
		"select 1 into temp a":                     dirtState,
		"do $$ begin end $$":                       dirtState,
		"begin":                                    dirtTransaction,
		"start transaction":                        dirtTransaction,
		"begin; set x = 1":                         dirtState | dirtTransaction,
		"insert into t values ('; set')":           dirtState, // a false alarm, which costs a connection
		"select pg_advisory_xact_lock(1)":          0,
		"with a as (select 1) select * from a":     0,
		"alter table t set (fillfactor = 10)":      0,
		"create or replace temp view v as table t": dirtState,
	} {
		if got := classify(sql); got != want {
			t.Errorf("%q: %d, want %d", sql, got, want)
		}
	}
}

func TestCommandTag(t *testing.T) {
	for _, tc := range []struct {
		sql  string
		rows int64
		want string
	}{
		{"insert into t values (1)", 1, "INSERT 0 1"},
		{"/* c */ -- d\n Update t set n = 1", 0, "UPDATE 0"},
		{"(select 1)", 1, "1"},
		{"create table t ()", 0, "CREATE"},
		{"values (1), (2)", 2, "VALUES 2"},
		{"call p()", 3, "CALL 3"},
		{"", 0, ""},
	} {
		tag := commandTag(tc.sql, tc.rows)
		if tag.String() != tc.want || tag.RowsAffected() != tc.rows {
			t.Errorf("%q: %q, %d rows", tc.sql, tag, tag.RowsAffected())
		}
	}
}

func TestIsSeveral(t *testing.T) {
	for sql, want := range map[string]bool{"a": false, "a;": false, "a ; \n;": false, "a; b": true, "';'": true} {
		if got := isSeveral(sql); got != want {
			t.Errorf("%q: %v", sql, got)
		}
	}
}
