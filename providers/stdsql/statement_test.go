package stdsql

import "testing"

func TestCommandTag(t *testing.T) {
	for _, tc := range []struct {
		sql  string
		rows int64
		want string
	}{
		{"insert into t values (1)", 1, "INSERT 0 1"},
		{"/* c */ -- d\n Update t set n = 1", 0, "UPDATE 0"},
		{"(select 1)", 1, "SELECT 1"},
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
