package stdsql

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// prepareArgs turns pgx's arguments into what the driver takes. A query rewriter,
// such as pgx.NamedArgs, is applied here; pgx's other options mean nothing to
// database/sql.
func (st *statement) prepareArgs(ctx context.Context) error {
	for len(st.args) > 0 {
		switch first := st.args[0].(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			return refused(fmt.Errorf("pgkeel: %T cannot be given to database/sql; leave it out, "+
				"or set how statements are prepared in the driver's DSN", first))
		case pgx.QueryRewriter:
			sql, args, err := first.RewriteQuery(ctx, nil, st.sql, st.args[1:])
			if err != nil {
				return refused(fmt.Errorf("pgkeel: the query cannot be rewritten: %w", err))
			}
			st.sql, st.args, st.effects = sql, args, sqltext.Classify(sql)
			continue
		}
		break
	}
	if st.lease.native { // takes all that pgx takes
		rehearse(st.args)
		return nil
	}
	types := st.lease.pool.types.Get().(*pgtype.Map)
	defer st.lease.pool.types.Put(types)
	portable := make([]any, len(st.args))
	for i, arg := range st.args {
		v, err := portableArg(types, arg)
		if err != nil {
			return refused(&argumentError{text: fmt.Sprintf("pgkeel: args[%d] cannot be encoded", i), cause: err})
		}
		portable[i] = v
	}
	st.args = portable
	return nil
}

// portableArg turns an argument into one that every driver takes: what
// database/sql knows stays as it is, the rest becomes PostgreSQL's text form of
// it, which the server reads as whatever the parameter is.
func portableArg(types *pgtype.Map, arg any) (any, error) {
	switch v := arg.(type) {
	case nil, string, []byte, bool, int64, int, int32, float64, time.Time:
		return v, nil
	case driver.Valuer:
		return valueOf(v)
	case json.RawMessage:
		return string(v), nil
	case [16]byte:
		return pgtype.UUID{Bytes: v, Valid: true}.Value()
	}
	v := reflect.ValueOf(arg)
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if v.IsNil() {
			return nil, nil //nolint:nilnil // NULL
		}
	case reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Complex64, reflect.Complex128:
		return nil, fmt.Errorf("a %T is no value", arg)
	case reflect.Array:
		list := reflect.MakeSlice(reflect.SliceOf(v.Type().Elem()), v.Len(), v.Len())
		reflect.Copy(list, v)
		return portableArg(types, list.Interface())
	case reflect.Struct, reflect.Interface:
	default:
		return arg, nil // numbers, strings and booleans of types of their own
	}
	return textArg(types, arg, v)
}

// listTypes are the arrays for lists of types of the application's own.
var listTypes = map[reflect.Kind]uint32{
	reflect.Bool: pgtype.BoolArrayOID, reflect.String: pgtype.TextArrayOID,
	reflect.Int: pgtype.Int8ArrayOID, reflect.Int16: pgtype.Int8ArrayOID, reflect.Int32: pgtype.Int8ArrayOID, reflect.Int64: pgtype.Int8ArrayOID,
	reflect.Float32: pgtype.Float8ArrayOID, reflect.Float64: pgtype.Float8ArrayOID,
}

// textArg is the text form of a value that is neither a number, a string nor a
// boolean. What PostgreSQL has no type for is JSON.
func textArg(types *pgtype.Map, arg any, v reflect.Value) (any, error) {
	oid := uint32(0)
	if t, known := types.TypeForValue(arg); known {
		oid = t.OID
	} else if v.Kind() == reflect.Slice {
		oid = listTypes[v.Type().Elem().Kind()]
	}
	if oid != 0 {
		text, err := types.Encode(oid, pgx.TextFormatCode, arg, nil)
		if err != nil || text == nil {
			return nil, err
		}
		return string(text), nil
	}
	if v.Kind() == reflect.Pointer {
		return portableArg(types, v.Elem().Interface())
	}
	text, err := json.Marshal(arg)
	return string(text), err
}

// rehearse has a Valuer that panics do so here, as in valueOf. Its value is left to
// the driver, which may not need it.
func rehearse(args []any) {
	for _, arg := range args {
		if v, ok := arg.(driver.Valuer); ok {
			_, _ = valueOf(v)
		}
	}
}

// valueOf asks a Valuer for its value, here rather than inside of database/sql,
// which does not survive one that panics. A nil pointer is NULL.
func valueOf(v driver.Valuer) (any, error) {
	if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer && p.IsNil() &&
		p.Type().Elem().Implements(reflect.TypeFor[driver.Valuer]()) {
		return nil, nil //nolint:nilnil // NULL
	}
	return v.Value()
}
