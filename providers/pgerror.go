package providers

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// The SQLSTATE codes that the predicates look at. See PostgreSQL's manual,
// appendix "Error Codes".
const (
	codeTransactionUnknown  = "08007"
	codeFeatureNotSupported = "0A000"
	codeNotNullViolation    = "23502"
	codeForeignKeyViolation = "23503"
	codeUniqueViolation     = "23505"
	codeCheckViolation      = "23514"
	codeReadOnly            = "25006"
	codeIdleInTxTimeout     = "25P03"
	codeTransactionTimeout  = "25P04"
	codeSerialization       = "40001"
	codeCompletionUnknown   = "40003"
	codeDeadlock            = "40P01"
	codeDuplicateObject     = "42710"
	codeDuplicateTable      = "42P07"
	codeTooManyConnections  = "53300"
	codeQueryCanceled       = "57014"
	codeAdminShutdown       = "57P01"
	codeCrashShutdown       = "57P02"
	codeCannotConnectNow    = "57P03"
	codeDatabaseDropped     = "57P04"
	codeIdleSessionTimeout  = "57P05"
)

// PGError is an error that the server reported, with every field it sent.
// [errors.As] still finds the *pgconn.PgError underneath.
type PGError struct {
	// Code is the SQLSTATE.
	Code string
	// Severity is ERROR, FATAL or PANIC, whatever the server's language.
	Severity string
	// Message is the primary message.
	Message string
	// Detail, Hint and Where are the server's further explanations. Detail
	// can contain values of the row at fault: [PGError.Error] leaves it out.
	Detail string
	Hint   string
	Where  string
	// Position is the offset in the statement, in characters, from 1.
	Position int32
	// InternalPosition and InternalQuery point into a statement that the
	// server generated itself.
	InternalPosition int32
	InternalQuery    string
	// Schema, Table, Column, DataType and Constraint name the object at fault.
	Schema     string
	Table      string
	Column     string
	DataType   string
	Constraint string
	// File, Line and Routine are the place in PostgreSQL's source.
	File    string
	Line    int32
	Routine string

	cause error
}

// NewPGError turns an error chain that contains a *pgconn.PgError into a
// PGError around the whole chain. It returns nil where there is none.
func NewPGError(err error) *PGError {
	pg := serverError(err)
	if pg == nil {
		return nil
	}
	return &PGError{
		Code: pg.Code, Severity: severity(pg), Message: pg.Message,
		Detail: pg.Detail, Hint: pg.Hint, Where: pg.Where,
		Position: pg.Position, InternalPosition: pg.InternalPosition, InternalQuery: pg.InternalQuery,
		Schema: pg.SchemaName, Table: pg.TableName, Column: pg.ColumnName,
		DataType: pg.DataTypeName, Constraint: pg.ConstraintName,
		File: pg.File, Line: pg.Line, Routine: pg.Routine,
		cause: err,
	}
}

// serverError finds the server's error in a chain, or nil.
func serverError(err error) *pgconn.PgError {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return nil
	}
	return pg
}

func severity(pg *pgconn.PgError) string {
	if pg.SeverityUnlocalized != "" {
		return pg.SeverityUnlocalized
	}
	return pg.Severity
}

// Error returns the message, the hint and the code. It never contains Detail,
// which quotes the values of the row at fault, nor the value that the message of
// a data exception (class 22) quotes.
func (e *PGError) Error() string {
	var b strings.Builder
	b.WriteString(e.message())
	if e.Hint != "" {
		b.WriteString(" (hint: " + e.Hint + ")")
	}
	b.WriteString(" (SQLSTATE " + e.Code + ")")
	return b.String()
}

// message is the message without the value that the data exceptions of class 22
// quote.
func (e *PGError) message() string {
	from, to := strings.IndexByte(e.Message, '"'), strings.LastIndexByte(e.Message, '"')
	if !e.class("22") || from == to {
		return e.Message
	}
	return e.Message[:from+1] + "…" + e.Message[to:]
}

// Unwrap returns the driver's error.
func (e *PGError) Unwrap() error { return e.cause }

// SQLState returns the SQLSTATE code, as *pgconn.PgError does.
func (e *PGError) SQLState() string { return e.Code }

// IsConnectionError reports whether the connection is lost or could not be
// made: class 08, a server that shuts down, crashed or still starts, a
// database that was dropped, a session that a timeout of the server ended
// (idle, idle in a transaction, transaction_timeout), or no free connection
// slot. An error of class 08 that a statement raised is none: it tells of text that
// PostgreSQL cannot read, or of a connection to a third server (dblink, a foreign
// table), and the one to this server is as it was.
func (e *PGError) IsConnectionError() bool {
	switch e.Code {
	case codeAdminShutdown, codeCrashShutdown, codeCannotConnectNow,
		codeDatabaseDropped, codeIdleSessionTimeout, codeIdleInTxTimeout,
		codeTransactionTimeout, codeTooManyConnections:
		return true
	}
	return e.class("08") && !raised(e.Severity, e.Routine)
}

// raised reports an error that a statement of PostgreSQL's own ended with. It names the
// place in the source; a balancer, which sends errors of class 08 in a server's
// place, has none.
func raised(severity, routine string) bool { return severity == "ERROR" && routine != "" }

// IsRetryable reports whether running the whole transaction again, in a fresh
// one, can succeed: a serialization failure or a deadlock. A connection error
// is not in it, since what happened to the transaction is then a matter of
// when the connection was lost (see [Outcome]).
func (e *PGError) IsRetryable() bool { return e.IsSerializationFailure() || e.IsDeadlock() }

// IsConstraintViolation reports whether an integrity constraint was violated
// (class 23).
func (e *PGError) IsConstraintViolation() bool { return e.class("23") }

// IsStalePlan reports that a cached statement no longer fits the schema (0A000
// from the plan cache). The server finds out before it runs anything.
func (e *PGError) IsStalePlan() bool {
	return e.Code == codeFeatureNotSupported && e.Routine == "RevalidateCachedQuery"
}

// IsUniqueViolation reports a duplicate key (23505).
func (e *PGError) IsUniqueViolation() bool { return e.Code == codeUniqueViolation }

// IsForeignKeyViolation reports a missing or still referenced row (23503).
func (e *PGError) IsForeignKeyViolation() bool { return e.Code == codeForeignKeyViolation }

// IsCheckViolation reports a CHECK constraint that does not hold (23514).
func (e *PGError) IsCheckViolation() bool { return e.Code == codeCheckViolation }

// IsNotNullViolation reports a NULL where none may be (23502).
func (e *PGError) IsNotNullViolation() bool { return e.Code == codeNotNullViolation }

// IsSerializationFailure reports a conflict between concurrent transactions
// (40001).
func (e *PGError) IsSerializationFailure() bool { return e.Code == codeSerialization }

// IsDeadlock reports that the transaction was chosen to end a deadlock (40P01).
func (e *PGError) IsDeadlock() bool { return e.Code == codeDeadlock }

// IsReadOnly reports a write in a read-only transaction or on a standby (25006).
func (e *PGError) IsReadOnly() bool { return e.Code == codeReadOnly }

// IsQueryCanceled reports that the statement was cancelled, by a request or by
// a timeout of the server (57014).
func (e *PGError) IsQueryCanceled() bool { return e.Code == codeQueryCanceled }

// IsDuplicateObject reports that what was to be created is there already: a table or
// another relation (42P07), or another object (42710), such as the type of a table's
// rows. IF NOT EXISTS does not see what somebody else creates at the same time; there
// the error can also be a unique violation, in the catalog.
func (e *PGError) IsDuplicateObject() bool {
	return e.Code == codeDuplicateTable || e.Code == codeDuplicateObject
}

// IsTooManyConnections reports that the server has no free slot (53300).
func (e *PGError) IsTooManyConnections() bool { return e.Code == codeTooManyConnections }

func (e *PGError) class(class string) bool { return strings.HasPrefix(e.Code, class) }
