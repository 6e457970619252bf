package stdsql

import (
	"errors"
	"reflect"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// pgError makes a PGError of an error of the server's, whichever driver reports
// it, or returns nil. The driver's own error stays in its chain.
func pgError(err error) *providers.PGError {
	var already *providers.PGError
	if errors.As(err, &already) {
		return already
	}
	if pg := providers.NewPGError(err); pg != nil {
		return pg
	}
	if pg := serverError(err); pg != nil {
		return providers.NewPGError(&foreignError{pg: pg, cause: err})
	}
	return nil
}

// foreignError has another driver's error be found as pgx's, too.
type foreignError struct {
	pg    *pgconn.PgError
	cause error
}

func (e *foreignError) Error() string   { return e.cause.Error() }
func (e *foreignError) Unwrap() []error { return []error{e.cause, e.pg} }

// serverError finds the server's error in a chain: pgx's, or one that has a
// method SQLState and fields named after those of the protocol, as lib/pq's has.
func serverError(err error) *pgconn.PgError {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg
	}
	var coded interface{ SQLState() string }
	if !errors.As(err, &coded) || len(coded.SQLState()) != 5 {
		return nil
	}
	return fromFields(coded.SQLState(), reflect.ValueOf(coded))
}

// fromFields reads the fields of another driver's error. It may lack any of them.
func fromFields(code string, v reflect.Value) *pgconn.PgError {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	text := func(name string) string {
		if v.Kind() != reflect.Struct {
			return ""
		}
		if f := v.FieldByName(name); f.IsValid() && f.Kind() == reflect.String {
			return f.String()
		}
		return ""
	}
	number := func(name string) int32 {
		n, _ := strconv.ParseInt(text(name), 10, 32) // 0 is "unknown" there, too
		return int32(n)
	}
	return &pgconn.PgError{
		Code: code, Severity: text("Severity"), Message: text("Message"),
		Detail: text("Detail"), Hint: text("Hint"), Where: text("Where"),
		Position: number("Position"), InternalPosition: number("InternalPosition"), InternalQuery: text("InternalQuery"),
		SchemaName: text("Schema"), TableName: text("Table"), ColumnName: text("Column"),
		DataTypeName: text("DataTypeName"), ConstraintName: text("Constraint"),
		File: text("File"), Line: number("Line"), Routine: text("Routine"),
	}
}

// severity is that of the protocol where the driver tells it, else the one in
// the server's language: then an error passes for one that ends the session,
// and its outcome for unknown.
func severity(pg *pgconn.PgError) string {
	if pg.SeverityUnlocalized != "" {
		return pg.SeverityUnlocalized
	}
	return pg.Severity
}
