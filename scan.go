package pgkeel

import (
	"context"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"
)

// destination checks what QueryOne was given.
func destination(dst any) (reflect.Value, error) {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return v, refusef("QueryOne: the destination is a %T, but must be a non-nil pointer", dst)
	}
	return v.Elem(), nil
}

// sliceDestination checks what QueryAll was given.
func sliceDestination(dst any) (reflect.Value, error) {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Slice {
		return v, refusef("QueryAll: the destination is a %T, but must be a non-nil pointer to a slice", dst)
	}
	return v.Elem(), nil
}

// queryOne reads the one row of a query into v, which is zero. After an error v
// can hold anything.
func queryOne(ctx context.Context, q Querier, v reflect.Value, sql string, args []any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for {
		err := readOne(rows, v)
		if err == nil || !restart(rows) {
			return err
		}
		v.SetZero()
	}
}

func readOne(rows pgx.Rows, v reflect.Value) error {
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	scan := rowScanner{t: v.Type()}
	if err := scan.scan(rows, v); err != nil {
		abandon(rows)
		return err
	}
	if rows.Next() {
		abandon(rows)
		return ErrTooManyRows
	}
	return rows.Err()
}

// queryAll reads every row of a query into all, an empty slice. After an error
// it can hold anything.
func queryAll(ctx context.Context, q Querier, all reflect.Value, sql string, args []any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for {
		err := readAll(rows, all)
		if err == nil || !restart(rows) {
			return err
		}
		all.Clear()
		all.SetLen(0)
	}
}

func readAll(rows pgx.Rows, all reflect.Value) error {
	scan := rowScanner{t: all.Type().Elem()}
	for n := 0; rows.Next(); n++ {
		all.Grow(1)
		all.SetLen(n + 1)
		if err := scan.scan(rows, all.Index(n)); err != nil {
			abandon(rows)
			return err
		}
	}
	return rows.Err()
}

// restart has rows begin again that ended because their server was lost, if they
// can: of a read that may go to another server nothing needs to get lost.
func restart(rows pgx.Rows) bool {
	r, ok := rows.(interface{ Restart() bool })
	return ok && r.Restart()
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
	}
	switch s.plan.shape {
	case shapeMap:
		return scanMap(rows, v)
	case shapeStruct:
		return s.scanStruct(rows, v)
	default:
		return s.scanValue(rows, v)
	}
}

func (s *rowScanner) scanValue(rows pgx.Rows, v reflect.Value) error {
	if s.dest == nil {
		s.dest = make([]any, 1)
	}
	s.dest[0] = v.Addr().Interface()
	return rows.Scan(s.dest...)
}

func (s *rowScanner) scanStruct(rows pgx.Rows, v reflect.Value) error {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if s.dest == nil {
		s.dest = make([]any, len(s.plan.columns))
	}
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
	if s.plan.optional {
		return s.place(rows, v)
	}
	return nil
}

// place puts the values of optional columns into their fields, for which it
// makes the structs on the way. A NULL whose struct some other column made is
// scanned once more: its field may refuse it like any other.
func (s *rowScanner) place(rows pgx.Rows, v reflect.Value) error {
	for i, c := range s.plan.columns {
		if c.optional {
			if value := reflect.ValueOf(s.dest[i]).Elem(); !value.IsNil() {
				fieldAlloc(v, c.index).Set(value.Elem())
				s.dest[i] = nil
			}
			continue
		}
		s.dest[i] = nil // scanned already
	}
	again := false
	for i, c := range s.plan.columns {
		if s.dest[i] == nil {
			continue
		}
		s.dest[i] = nil
		if f, err := v.FieldByIndexErr(c.index); err == nil {
			s.dest[i], again = f.Addr().Interface(), true
		}
	}
	if !again {
		return nil
	}
	return rows.Scan(s.dest...)
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
			return errColumnTwice(f.Name)
		}
		m[f.Name] = values[i]
	}
	v.Set(reflect.ValueOf(m).Convert(v.Type()))
	return nil
}

func errColumnTwice(column string) error {
	return fmt.Errorf("pgkeel: column %q appears twice; give one of them another name with AS", column)
}
