package bulk

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/internal/rowfield"
)

// rowOf returns how the values of a row are taken out of a T. See [FromSlice]
// for what T can be.
func rowOf[T any](columns []string) (func(item *T, row []any) ([]any, error), error) {
	t := reflect.TypeFor[T]()
	switch {
	case t == reflect.TypeFor[[]any]():
		return func(item *T, _ []any) ([]any, error) { return any(*item).([]any), nil }, nil
	case t.Kind() == reflect.Map && t.ConvertibleTo(reflect.TypeFor[map[string]any]()):
		return func(item *T, row []any) ([]any, error) {
			values := reflect.ValueOf(*item).Convert(reflect.TypeFor[map[string]any]()).Interface().(map[string]any)
			return fromMap(values, columns, row)
		}, nil
	case isRow(t):
		fields, err := fieldsOf(t, columns)
		return func(item *T, row []any) ([]any, error) { return fromStruct(reflect.ValueOf(item).Elem(), fields, row) }, err
	case len(columns) != 1:
		return nil, fmt.Errorf("a %s holds one column, but there are %d; use a struct, a map[string]any or a []any", t, len(columns))
	default:
		return func(item *T, row []any) ([]any, error) { return append(row, any(*item)), nil }, nil
	}
}

// isRow reports whether a type is a struct, or a pointer to one, that stands for
// a row rather than for the value of one column.
func isRow(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() || reflect.PointerTo(t).Implements(reflect.TypeFor[driver.Valuer]()) {
		return false
	}
	if _, isValue := pgtype.NewMap().TypeForValue(reflect.Zero(t).Interface()); isValue {
		return false
	}
	return slices.ContainsFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool { return f.IsExported() })
}

func fieldsOf(t reflect.Type, columns []string) ([]rowfield.Field, error) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	fields := make([]rowfield.Field, len(columns))
	var errs []error
	for i, column := range columns {
		var err error
		if fields[i], err = rowfield.Find(t, column); err != nil {
			errs = append(errs, fmt.Errorf("%w, or leave the column out", err))
		}
	}
	return fields, errors.Join(errs...)
}

var errNilRow = errors.New("pgkeel: bulk: a row is a nil pointer")

func fromStruct(v reflect.Value, fields []rowfield.Field, row []any) ([]any, error) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return row, errNilRow
		}
		v = v.Elem()
	}
	for _, f := range fields {
		if f.Optional {
			field, err := v.FieldByIndexErr(f.Index)
			if err != nil { // a pointer on the way is nil
				row = append(row, nil)
				continue
			}
			row = append(row, field.Interface())
			continue
		}
		row = append(row, v.FieldByIndex(f.Index).Interface())
	}
	return row, nil
}

func fromMap(values map[string]any, columns []string, row []any) ([]any, error) {
	for _, column := range columns {
		value, ok := values[column]
		if !ok {
			return row, fmt.Errorf("pgkeel: bulk: a row has nothing under %q; put nil there for NULL", column)
		}
		row = append(row, value)
	}
	return row, nil
}
