package stdsql

import "testing"

func TestControlsTx(t *testing.T) {
	for sql, want := range map[string]bool{
		"":                                      false,
		"select 1":                              false,
		"commit":                                true,
		"Commit;":                               true,
		" ; /* a */ ;-- b\r end":                true,
		"/* /* nested */ still */commit":        true,
		"/* /* nested */ commit":                false, // never ends
		"/*/ commit */ select 1":                false,
		"/**/commit/**/":                        true,
		"-- commit":                             false,
		"--\ncommit":                            true,
		"\v\fabort":                             true,
		"begin":                                 true,
		"begin_work()":                          false,
		"committed":                             false,
		"start transaction":                     true,
		"rollback":                              true,
		"rollback work":                         true,
		"rollback transaction and chain":        true,
		"rollback to a":                         false,
		"ROLLBACK WORK TO a":                    false,
		"rollback/* */transaction--\nto":        false,
		"rollback /* to */":                     true,
		"prepare transaction 'a'":               true,
		"prepare /* /* */ a */ transaction 'a'": true,
		"prepare a as select 1":                 false,
		"savepoint a":                           false,
		"release a":                             false,
		"do $$ begin perform 1; end $$":         false,
		"'commit'":                              false,
		`"commit"`:                              false,
		"commité":                               false,
		"commit1":                               false,
	} {
		if got := controlsTx(sql); got != want {
			t.Errorf("%q: %v", sql, got)
		}
	}
}

func TestCopiesIn(t *testing.T) {
	for sql, want := range map[string]bool{
		"copy t from stdin":                        true,
		"/* all */ -- of it\n COPY t FROM\nSTDIN":  true,
		"copy t to stdout":                         false,
		"copy t from '/tmp/x'":                     false,
		"insert into t values ('copy from stdin')": false,
		"select stdin from copy":                   false,
		"":                                         false,
	} {
		if got := copiesIn(sql); got != want {
			t.Errorf("%q: %v", sql, got)
		}
	}
}

func TestMayEndTx(t *testing.T) {
	for sql, want := range map[string]bool{
		"select 1; select 2":                 false,
		"select 1; COMMIT; select 2":         true,
		"select 1; -- a\n end":               true,
		"select 1; prepare transaction 'a'":  true,
		"select 1; /* /* */ */ commit":       true,
		"select 1; release a":                false,
		"select ';commit'":                   true, // a false alarm, which costs a round trip
		"select 1; select 'commit', 'com;m'": false,
	} {
		if got := mayEndTx(sql); got != want {
			t.Errorf("%q: %v", sql, got)
		}
	}
}
