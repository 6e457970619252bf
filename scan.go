package pgkeel

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// destination checks what QueryOne was given.
func destination(dst any) (reflect.Value, error) {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return v, fmt.Errorf("pgkeel: QueryOne: the destination is a %T, but must be a non-nil pointer; nothing was sent", dst)
	}
	return v.Elem(), nil
}

// sliceDestination checks what QueryAll was given.
func sliceDestination(dst any) (reflect.Value, error) {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Slice {
		return v, fmt.Errorf("pgkeel: QueryAll: the destination is a %T, but must be a non-nil pointer to a slice; nothing was sent", dst)
	}
	return v.Elem(), nil
}

func queryOne(ctx context.Context, q Querier, dst reflect.Value, sql string, args []any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	// The destination only changes once it is certain that this is the one row.
	v := reflect.New(dst.Type()).Elem()
	scan := rowScanner{t: dst.Type()}
	if err := scan.scan(rows, v); err != nil {
		abandon(rows)
		return err
	}
	if rows.Next() {
		abandon(rows)
		return ErrTooManyRows
	}
	if err := rows.Err(); err != nil {
		return err
	}
	dst.Set(v)
	return nil
}

func queryAll(ctx context.Context, q Querier, dst reflect.Value, sql string, args []any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	all := reflect.New(dst.Type()).Elem()
	all.Set(reflect.MakeSlice(dst.Type(), 0, 0))
	scan := rowScanner{t: dst.Type().Elem()}
	for n := 0; rows.Next(); n++ {
		all.Grow(1)
		all.SetLen(n + 1)
		if err := scan.scan(rows, all.Index(n)); err != nil {
			abandon(rows)
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	dst.Set(all)
	return nil
}

// rowScanner scans the rows of one result into values of one type.
type rowScanner struct {
	t    reflect.Type
	plan *scanPlan
	dest []any
}

// scan reads the current row into v, which is settable and zero.
func (s *rowScanner) scan(rows pgx.Rows, v reflect.Value) error {
	if s.plan == nil {
		plan, err := planFor(s.t, rows)
		if err != nil {
			return err
		}
		s.plan = plan
		s.dest = make([]any, len(plan.columns))
	}
	if s.plan.toMap {
		return scanMap(rows, v)
	}
	if s.plan.scalar {
		s.dest[0] = v.Addr().Interface()
		return rows.Scan(s.dest...)
	}
	return s.scanStruct(rows, v)
}

func (s *rowScanner) scanStruct(rows pgx.Rows, v reflect.Value) error {
	for i, c := range s.plan.columns {
		if c.optional {
			// A pointer on the way: only a value that is not NULL makes it
			// point to something.
			s.dest[i] = reflect.New(reflect.PointerTo(c.fieldType)).Interface()
			continue
		}
		s.dest[i] = v.FieldByIndex(c.index).Addr().Interface()
	}
	if err := rows.Scan(s.dest...); err != nil {
		return err
	}
	for i, c := range s.plan.columns {
		if c.optional {
			if value := reflect.ValueOf(s.dest[i]).Elem(); !value.IsNil() {
				fieldAlloc(v, c.index).Set(value.Elem())
			}
		}
	}
	return nil
}

// fieldAlloc is FieldByIndex that allocates the structs on the way.
func fieldAlloc(v reflect.Value, index []int) reflect.Value {
	for _, i := range index {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v
}

func scanMap(rows pgx.Rows, v reflect.Value) error {
	values, err := rows.Values()
	if err != nil {
		return err
	}
	m := make(map[string]any, len(values))
	for i, f := range rows.FieldDescriptions() {
		if _, twice := m[f.Name]; twice {
			return fmt.Errorf("pgkeel: column %q appears twice; give one of them another name with AS", f.Name)
		}
		m[f.Name] = values[i]
	}
	v.Set(reflect.ValueOf(m).Convert(v.Type()))
	return nil
}

// scanPlan says where each column goes.
type scanPlan struct {
	scalar, toMap bool
	columns       []columnPlan
}

type columnPlan struct {
	index     []int
	fieldType reflect.Type
	optional  bool
}

type planKey struct {
	t       reflect.Type
	columns string
}

// plans caches the plans of structs by type and column names. Both are fixed in
// the text of a program, so it stays small; planBound is for the program that
// makes up column names.
var plans struct {
	sync.RWMutex
	byKey map[planKey]*scanPlan
}

const planBound = 1024

func planFor(t reflect.Type, rows pgx.Rows) (*scanPlan, error) {
	fields := rows.FieldDescriptions()
	if t.Kind() == reflect.Map {
		return mapPlan(t)
	}
	if !isRowStruct(t, rows.TypeMap()) {
		if len(fields) != 1 {
			return nil, fmt.Errorf("pgkeel: a %s holds one column, but the query returns %d; select one, or use a struct", t, len(fields))
		}
		return &scanPlan{scalar: true, columns: make([]columnPlan, 1)}, nil
	}
	key := planKey{t, columnNames(fields)}
	plans.RLock()
	plan := plans.byKey[key]
	plans.RUnlock()
	if plan != nil {
		return plan, nil
	}
	plan, err := structPlan(t, fields)
	if err != nil {
		return nil, err
	}
	plans.Lock()
	defer plans.Unlock()
	if plans.byKey == nil || len(plans.byKey) >= planBound {
		plans.byKey = map[planKey]*scanPlan{}
	}
	plans.byKey[key] = plan
	return plan, nil
}

func columnNames(fields []pgconn.FieldDescription) string {
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(f.Name)
		b.WriteByte(0) // cannot be part of a name
	}
	return b.String()
}

func mapPlan(t reflect.Type) (*scanPlan, error) {
	if t.Key().Kind() != reflect.String || t.Elem() != reflect.TypeFor[any]() {
		return nil, fmt.Errorf("pgkeel: rows cannot be read into a %s; use map[string]any or a struct", t)
	}
	return &scanPlan{toMap: true}, nil
}

// isRowStruct reports whether a type stands for a row rather than for a value
// of one column.
func isRowStruct(t reflect.Type, types *pgtype.Map) bool {
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() {
		return false
	}
	ptr := reflect.PointerTo(t)
	if ptr.Implements(reflect.TypeFor[sql.Scanner]()) {
		return false
	}
	if types != nil {
		if _, known := types.TypeForValue(reflect.Zero(t).Interface()); known {
			return false // pgtype's own types, netip, and what the application registered
		}
	}
	return slices.ContainsFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool { return f.IsExported() })
}

func structPlan(t reflect.Type, fields []pgconn.FieldDescription) (*scanPlan, error) {
	plan := &scanPlan{columns: make([]columnPlan, len(fields))}
	seen := map[string]bool{}
	for i, f := range fields {
		if seen[f.Name] {
			return nil, fmt.Errorf("pgkeel: column %q appears twice; give one of them another name with AS", f.Name)
		}
		seen[f.Name] = true
		c, err := findColumn(t, f.Name)
		if err != nil {
			return nil, err
		}
		plan.columns[i] = c
	}
	return plan, nil
}

// findColumn finds the field for a column: by the whole name, or else by its
// parts between dots in nested structs.
func findColumn(t reflect.Type, column string) (columnPlan, error) {
	if f, ok := findField(t, column); ok {
		return plainColumn(t, f), nil
	}
	head, tail, dotted := strings.Cut(column, ".")
	if f, ok := findField(t, head); dotted && ok {
		nested := f.Type
		if nested.Kind() == reflect.Pointer {
			nested = nested.Elem()
		}
		if nested.Kind() == reflect.Struct {
			c, err := findColumn(nested, tail)
			if err != nil {
				return c, err
			}
			outer := plainColumn(t, f)
			c.index = slices.Concat(outer.index, c.index)
			c.optional = c.optional || outer.optional || f.Type.Kind() == reflect.Pointer
			return c, nil
		}
	}
	return columnPlan{}, fmt.Errorf("pgkeel: column %q has no field in %s; add a field, tag one `db:%q`, or select fewer columns", column, t, column)
}

func plainColumn(t reflect.Type, f reflect.StructField) columnPlan {
	c := columnPlan{index: f.Index, fieldType: f.Type}
	for i := 1; i < len(f.Index); i++ { // an embedded pointer on the way
		c.optional = c.optional || t.FieldByIndex(f.Index[:i]).Type.Kind() == reflect.Pointer
	}
	return c
}

// findField finds the field for a name. A tag decides; a field without one has
// the name of its identifier.
func findField(t reflect.Type, name string) (reflect.StructField, bool) {
	var byName reflect.StructField
	found := false
	for _, f := range reflect.VisibleFields(t) {
		if !f.IsExported() || hidden(t, f) {
			continue
		}
		tag, tagged := f.Tag.Lookup("db")
		tag, _, _ = strings.Cut(tag, ",")
		switch {
		case tag == "-":
		case tagged && tag != "":
			if tag == name {
				return f, true
			}
		case !found && foldName(f.Name) == foldName(name):
			byName, found = f, true
		}
	}
	return byName, found
}

// hidden reports whether a struct on the way to a promoted field is tagged "-"
// or not exported behind a pointer, which reflection cannot allocate.
func hidden(t reflect.Type, f reflect.StructField) bool {
	for i := 1; i < len(f.Index); i++ {
		outer := t.FieldByIndex(f.Index[:i])
		if outer.Tag.Get("db") == "-" || !outer.IsExported() && outer.Type.Kind() == reflect.Pointer {
			return true
		}
	}
	return false
}

func foldName(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
