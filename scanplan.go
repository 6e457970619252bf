package pgkeel

import (
	"database/sql"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/internal/rowfield"
)

// shape says what a type holds of a row.
type shape uint8

const (
	// shapeValue holds the value of its only column.
	shapeValue shape = iota
	// shapeMap holds every column under its name.
	shapeMap
	// shapeStruct holds every column in a field.
	shapeStruct
)

// scanPlan says where the columns of a result go.
type scanPlan struct {
	shape shape
	// What follows is for structs.
	names   []string
	columns []columnPlan
	// optional says that some column is.
	optional bool
}

type columnPlan struct {
	index     []int
	fieldType reflect.Type
	// optional says that there is a pointer to a struct on the way.
	optional bool
}

var (
	valuePlan = &scanPlan{shape: shapeValue}
	mapPlan   = &scanPlan{shape: shapeMap}
)

func planFor(t reflect.Type, rows pgx.Rows) (*scanPlan, error) {
	fields := rows.FieldDescriptions()
	switch shapeOf(t, rows.TypeMap()) {
	case shapeMap:
		return mapPlan, nil
	case shapeStruct:
		return plans.of(t, fields)
	default:
		if t == reflect.TypeFor[pgtype.DriverBytes]() {
			return nil, errDriverBytes
		}
		if len(fields) != 1 {
			return nil, fmt.Errorf("pgkeel: a %s holds one column, but the query returns %d; select one, or use a struct", t, len(fields))
		}
		return valuePlan, nil
	}
}

// errDriverBytes refuses what would change under the reader's hands.
var errDriverBytes = fmt.Errorf("pgkeel: cannot read into pgtype.DriverBytes: the bytes belong to the connection, which others use next; read into []byte")

// shapeOf says what a type holds. The application can register types of its own
// as values on each connection.
func shapeOf(t reflect.Type, registered *pgtype.Map) shape {
	s, known := shapes.Load(t)
	if !known {
		s = byNature(t)
		shapes.Store(t, s)
	}
	if s == shapeStruct && registered != nil {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if _, value := registered.TypeForValue(reflect.Zero(t).Interface()); value {
			return shapeValue
		}
	}
	return s.(shape)
}

// shapes caches what types hold by nature: there are as many as the program's
// text has.
var shapes sync.Map // reflect.Type → shape

func byNature(t reflect.Type) shape {
	if t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct {
		return byNature(t.Elem())
	}
	switch {
	case t == reflect.TypeFor[time.Time](), scansItself(t):
		return shapeValue
	case t.Kind() == reflect.Map && reflect.TypeFor[map[string]any]().ConvertibleTo(t):
		return shapeMap
	case t.Kind() == reflect.Struct && slices.ContainsFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool { return f.IsExported() }):
		return shapeStruct
	}
	return shapeValue
}

// scansItself reports whether a type knows by itself how to read a column.
func scansItself(t reflect.Type) bool {
	return slices.ContainsFunc(scanners, reflect.PointerTo(t).Implements)
}

// scanners are the interfaces by which types tell database/sql and pgx how to
// read a column into them.
var scanners = []reflect.Type{
	reflect.TypeFor[sql.Scanner](),
	reflect.TypeFor[pgtype.ArraySetter](), reflect.TypeFor[pgtype.BitsScanner](), reflect.TypeFor[pgtype.BoolScanner](),
	reflect.TypeFor[pgtype.BoxScanner](), reflect.TypeFor[pgtype.BytesScanner](), reflect.TypeFor[pgtype.CircleScanner](),
	reflect.TypeFor[pgtype.CompositeIndexScanner](), reflect.TypeFor[pgtype.DateScanner](), reflect.TypeFor[pgtype.Float64Scanner](),
	reflect.TypeFor[pgtype.HstoreScanner](), reflect.TypeFor[pgtype.Int64Scanner](), reflect.TypeFor[pgtype.IntervalScanner](),
	reflect.TypeFor[pgtype.LineScanner](), reflect.TypeFor[pgtype.LsegScanner](), reflect.TypeFor[pgtype.MultirangeSetter](),
	reflect.TypeFor[pgtype.NetipPrefixScanner](), reflect.TypeFor[pgtype.NumericScanner](), reflect.TypeFor[pgtype.PathScanner](),
	reflect.TypeFor[pgtype.PointScanner](), reflect.TypeFor[pgtype.PolygonScanner](), reflect.TypeFor[pgtype.RangeScanner](),
	reflect.TypeFor[pgtype.TIDScanner](), reflect.TypeFor[pgtype.TSVectorScanner](), reflect.TypeFor[pgtype.TextScanner](),
	reflect.TypeFor[pgtype.TimeScanner](), reflect.TypeFor[pgtype.TimestampScanner](), reflect.TypeFor[pgtype.TimestamptzScanner](),
	reflect.TypeFor[pgtype.UUIDScanner](), reflect.TypeFor[pgtype.Uint32Scanner](), reflect.TypeFor[pgtype.Uint64Scanner](),
}

// plans caches the plans of structs by type, each of them for the columns of one
// query. Both are fixed in the text of a program, so there are few; planBound is
// for the program that makes up column names.
var plans = planCache{byType: map[reflect.Type][]*scanPlan{}}

const planBound = 64

type planCache struct {
	sync.RWMutex
	byType map[reflect.Type][]*scanPlan
}

func (c *planCache) of(t reflect.Type, fields []pgconn.FieldDescription) (*scanPlan, error) {
	if plan := c.find(t, fields); plan != nil {
		return plan, nil
	}
	plan, err := structPlan(t, fields)
	if err != nil {
		return nil, err
	}
	c.Lock()
	defer c.Unlock()
	if len(c.byType[t]) >= planBound {
		c.byType[t] = nil
	}
	c.byType[t] = append(c.byType[t], plan)
	return plan, nil
}

// find compares the names rather than to join them into a key, which would cost
// an allocation for each query.
func (c *planCache) find(t reflect.Type, fields []pgconn.FieldDescription) *scanPlan {
	c.RLock()
	defer c.RUnlock()
	for _, plan := range c.byType[t] {
		if slices.EqualFunc(plan.names, fields, func(name string, f pgconn.FieldDescription) bool { return name == f.Name }) {
			return plan
		}
	}
	return nil
}

func structPlan(t reflect.Type, fields []pgconn.FieldDescription) (*scanPlan, error) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	plan := &scanPlan{shape: shapeStruct}
	for _, f := range fields {
		if slices.Contains(plan.names, f.Name) {
			return nil, errColumnTwice(f.Name)
		}
		c, err := findColumn(t, f.Name)
		if err != nil {
			return nil, err
		}
		if c.fieldType == reflect.TypeFor[pgtype.DriverBytes]() {
			return nil, errDriverBytes
		}
		same := func(other columnPlan) bool { return slices.Equal(other.index, c.index) }
		if i := slices.IndexFunc(plan.columns, same); i >= 0 {
			return nil, fmt.Errorf("pgkeel: columns %q and %q both belong to field %s of %s; select one of them, or tag another field",
				plan.names[i], f.Name, t.FieldByIndex(c.index).Name, t)
		}
		plan.names = append(plan.names, f.Name)
		plan.columns = append(plan.columns, c)
		plan.optional = plan.optional || c.optional
	}
	return plan, nil
}

// findColumn finds the field for a column.
func findColumn(t reflect.Type, column string) (columnPlan, error) {
	f, err := rowfield.Find(t, column)
	if err != nil {
		return columnPlan{}, fmt.Errorf("%w, or select fewer columns", err)
	}
	return columnPlan{index: f.Index, fieldType: f.Type, optional: f.Optional}, nil
}
