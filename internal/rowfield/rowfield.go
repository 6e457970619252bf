// Package rowfield finds the field of a struct that stands for a column of a
// row: the one rule for reading rows and for writing them.
package rowfield

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Field is where a column is in a struct.
type Field struct {
	// Index is the way to it, for [reflect.Value.FieldByIndex].
	Index []int
	// Type is the field's.
	Type reflect.Type
	// Optional says that there is a pointer to a struct on the way.
	Optional bool
}

// MissingError says that a column has no field.
type MissingError struct {
	// Column is its name, or what is left of it in a nested struct.
	Column string
	// Type is the struct.
	Type reflect.Type
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("pgkeel: column %q has no field in %s; add a field, or tag one `db:%q`", e.Column, e.Type, e.Column)
}

// Find finds the field for a column: by the whole name, or else by its parts
// between dots in nested structs. Where there is none the error is a
// [*MissingError].
func Find(t reflect.Type, column string) (Field, error) {
	if f, ok := find(t, column); ok {
		return plain(t, f), nil
	}
	head, tail, dotted := strings.Cut(column, ".")
	if f, ok := find(t, head); dotted && ok {
		nested := f.Type
		if nested.Kind() == reflect.Pointer {
			nested = nested.Elem()
		}
		if nested.Kind() == reflect.Struct {
			inner, err := Find(nested, tail)
			if err != nil {
				return inner, err
			}
			outer := plain(t, f)
			inner.Index = slices.Concat(outer.Index, inner.Index)
			inner.Optional = inner.Optional || outer.Optional || f.Type.Kind() == reflect.Pointer
			return inner, nil
		}
	}
	return Field{}, &MissingError{column, t}
}

func plain(t reflect.Type, f reflect.StructField) Field {
	field := Field{Index: f.Index, Type: f.Type}
	for i := 1; i < len(f.Index); i++ { // an embedded pointer on the way
		field.Optional = field.Optional || t.FieldByIndex(f.Index[:i]).Type.Kind() == reflect.Pointer
	}
	return field
}

// find finds the field for a name. A tag decides; a field without one has
// the name of its identifier. Of several the outermost counts, as in Go.
func find(t reflect.Type, name string) (best reflect.StructField, found bool) {
	bestTagged := false
	for _, f := range reflect.VisibleFields(t) {
		if !f.IsExported() || hidden(t, f) {
			continue
		}
		tag, _, _ := strings.Cut(f.Tag.Get("db"), ",")
		tagged := tag != ""
		if tagged && tag != name || !tagged && fold(f.Name) != fold(name) {
			continue
		}
		if !found || tagged && !bestTagged || tagged == bestTagged && len(f.Index) < len(best.Index) {
			best, bestTagged, found = f, tagged, true
		}
	}
	return best, found
}

// hidden reports whether a field, or a struct on the way to a promoted one, is
// tagged "-", or not exported behind a pointer, which reflection cannot
// allocate.
func hidden(t reflect.Type, f reflect.StructField) bool {
	if f.Tag.Get("db") == "-" {
		return true
	}
	for i := 1; i < len(f.Index); i++ {
		outer := t.FieldByIndex(f.Index[:i])
		if outer.Tag.Get("db") == "-" || !outer.IsExported() && outer.Type.Kind() == reflect.Pointer {
			return true
		}
	}
	return false
}

func fold(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
