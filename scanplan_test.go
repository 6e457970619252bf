package pgkeel

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func columns(names ...string) []pgconn.FieldDescription {
	fields := make([]pgconn.FieldDescription, len(names))
	for i, name := range names {
		fields[i].Name = name
	}
	return fields
}

type outer struct{ ID int }

type shadowing struct {
	outer
	Inner *outer
	Id    int
	User  string
	UserX string `db:"user"`
}

// fieldFor is the path of the field for a column.
func fieldFor[T any](t *testing.T, column string) []int {
	t.Helper()
	plan, err := structPlan(reflect.TypeFor[T](), columns(column))
	if err != nil {
		t.Fatal(err)
	}
	return plan.columns[0].index
}

func TestWhichFieldCounts(t *testing.T) {
	for name, tc := range map[string]struct{ got, want []int }{
		"the outermost of one name":      {fieldFor[shadowing](t, "id"), []int{2}},
		"a tag before a name":            {fieldFor[shadowing](t, "user"), []int{4}},
		"the outermost of one tag":       {fieldFor[tagged](t, "key"), []int{1}},
		"a whole name before its parts":  {fieldFor[dotted](t, "a.b"), []int{1}},
		"the parts where there is none":  {fieldFor[dotted](t, "a.c"), []int{0, 1}},
		"an embedded struct by its name": {fieldFor[embedding](t, "part.n"), []int{0, 0}},
		"one with a name in its tag":     {fieldFor[embedding](t, "n"), []int{0, 0}},
	} {
		if !reflect.DeepEqual(tc.got, tc.want) {
			t.Errorf("%s: %v, not %v", name, tc.got, tc.want)
		}
	}
}

type tagged struct {
	Key
	Mine int `db:"key"`
}

type Key struct {
	Theirs int `db:"key"`
}

type dotted struct {
	A    struct{ B, C int }
	Flat int `db:"a.b"`
}

type embedding struct {
	Part `db:"part"`
}

type Part struct{ N int }

type unreachable struct {
	*outer
	Gone  Part `db:"-"`
	*Part `db:"-"`
}

func TestFieldsThatCannotBe(t *testing.T) {
	for _, column := range []string{"id", "n", "gone", "gone.n", "part.n", "outer.id"} {
		if _, err := structPlan(reflect.TypeFor[unreachable](), columns(column)); err == nil {
			t.Errorf("%s has a field", column)
		}
	}
}

// A program that makes up column names does not fill the memory with plans.
func TestPlansAreBounded(t *testing.T) {
	type wide struct{ Inner map[string]struct{} }
	cache := planCache{byType: map[reflect.Type][]*scanPlan{}}
	typ := reflect.TypeFor[struct{ N int }]()
	first, err := cache.of(typ, columns("n"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := cache.of(typ, columns("n")); again != first || err != nil {
		t.Error("the plan is not kept")
	}
	for i := range 3 * planBound {
		if _, err := cache.of(typ, columns("n"+strings.Repeat("_", i))); err != nil {
			t.Fatal(err)
		}
		if n := len(cache.byType[typ]); n > planBound {
			t.Fatalf("%d plans", n)
		}
	}
	if _, err := cache.of(reflect.TypeFor[wide](), columns("n")); err == nil {
		t.Error("a plan for a column without a field")
	}
}

func TestShapes(t *testing.T) {
	type none struct{ _ int }
	for _, tc := range []struct {
		of   any
		want shape
	}{
		{0, shapeValue},
		{none{}, shapeValue},
		{struct{}{}, shapeValue},
		{map[string]any{}, shapeMap},
		{map[string]int{}, shapeValue},
		{map[int]any{}, shapeValue},
		{outer{}, shapeStruct},
		{&outer{}, shapeStruct},
		{new(*outer), shapeValue},
	} {
		t.Run(fmt.Sprintf("%T", tc.of), func(t *testing.T) {
			if got := shapeOf(reflect.TypeOf(tc.of), nil); got != tc.want {
				t.Errorf("%d, not %d", got, tc.want)
			}
		})
	}
}
