package savepoints

import (
	"strings"
	"testing"
)

// begin begins a savepoint.
func begin(s *Stack, name string) *Savepoint {
	sp := s.New(name)
	sp.Begun()
	return sp
}

func TestCheck(t *testing.T) {
	for name, ok := range map[string]bool{
		"": true, "a": true, `it"s`: true, strings.Repeat("é", 31): true,
		strings.Repeat("é", 32): false, "a\x00b": false, "a\xff": false,
	} {
		if err := Check(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNames(t *testing.T) {
	var s Stack
	for _, tc := range [][2]string{{"", `"pgkeel_1"`}, {"a", `"a"`}, {`a"b`, `"a""b"`}, {"", `"pgkeel_2"`}} {
		if got := s.New(tc[0]).BeginSQL(); got != "savepoint "+tc[1] {
			t.Errorf("%q: %s", tc[0], got)
		}
	}
}

// The server takes a name for the innermost savepoint of that name.
func TestNamesakesInsideEndFirst(t *testing.T) {
	var s Stack
	outer := begin(&s, "a")
	begin(&s, "b")
	inner := begin(&s, "a")
	for sp, times := range map[*Savepoint]int{outer: 2, inner: 1} {
		if got, want := sp.ReleaseSQL(), strings.Repeat(`release savepoint "a";`, times); got != want {
			t.Errorf("%s instead of %s", got, want)
		}
		if got, want := sp.UndoSQL(), strings.Repeat(`rollback to savepoint "a"; release savepoint "a";`, times); got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
}

func TestAnEndIsThatOfAllInside(t *testing.T) {
	for name, end := range map[string]func(*Savepoint){
		"released": (*Savepoint).Released, "undone": (*Savepoint).Undone, "failed": (*Savepoint).Failed,
	} {
		var s Stack
		outer, middle, inner := begin(&s, ""), begin(&s, ""), begin(&s, "")
		end(middle)
		if outer.IsOver() || !middle.IsOver() || !inner.IsOver() {
			t.Errorf("%s: %v %v %v", name, outer.IsOver(), middle.IsOver(), inner.IsOver())
		}
		if next := begin(&s, ""); next.IsOver() {
			t.Errorf("%s: one that begins afterwards is over", name)
		}
	}
	var none *Savepoint
	if none.IsOver() {
		t.Error("the transaction itself is over")
	}
}

func TestPoison(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(outer, inner *Savepoint)
		want bool
	}{
		"nothing":                     {func(_, _ *Savepoint) {}, false},
		"kept":                        {func(_, inner *Savepoint) { inner.Keep() }, true},
		"kept, then undone":           {func(_, inner *Savepoint) { inner.Keep(); inner.Keep(); inner.Undone() }, false},
		"kept, then undone from out":  {func(outer, inner *Savepoint) { inner.Keep(); outer.Undone() }, false},
		"released, then kept":         {func(_, inner *Savepoint) { inner.Released(); inner.Keep() }, false},
		"kept, then released":         {func(_, inner *Savepoint) { inner.Keep(); inner.Released() }, true},
		"both kept, one undone":       {func(outer, inner *Savepoint) { inner.Keep(); outer.Keep(); inner.Undone() }, true},
		"failed":                      {func(_, inner *Savepoint) { inner.Failed() }, true},
		"failed, and undone from out": {func(outer, inner *Savepoint) { inner.Failed(); outer.Undone() }, true},
	} {
		var s Stack
		outer := begin(&s, "")
		tc.do(outer, begin(&s, ""))
		if got := s.IsPoisoned(); got != tc.want {
			t.Errorf("%s: poisoned is %v", name, got)
		}
	}
}
