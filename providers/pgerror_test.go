package providers_test

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

func serverError(code, severity string) *pgconn.PgError {
	return &pgconn.PgError{Code: code, Severity: severity, SeverityUnlocalized: severity, Message: "message"}
}

// Every field that the driver knows must arrive, also those that later versions
// of the driver add: then this test fails until PGError has them.
func TestPGErrorKeepsEveryField(t *testing.T) {
	driver := &pgconn.PgError{}
	from := reflect.ValueOf(driver).Elem()
	for i := range from.NumField() {
		switch f := from.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("value of " + from.Type().Field(i).Name)
		case reflect.Int32:
			f.SetInt(int64(1000 + i))
		default:
			t.Fatalf("teach this test about %s", from.Type().Field(i).Name)
		}
	}
	to := reflect.ValueOf(providers.NewPGError(driver)).Elem()
	for i := range from.NumField() {
		name := from.Type().Field(i).Name
		switch name {
		case "Severity": // the localized one is for people; the driver's error still has it
			continue
		case "SeverityUnlocalized":
			name = "Severity"
		case "SchemaName", "TableName", "ColumnName", "DataTypeName", "ConstraintName":
			name = strings.TrimSuffix(name, "Name")
		}
		f := to.FieldByName(name)
		if !f.IsValid() {
			t.Errorf("PGError has no field for %s", from.Type().Field(i).Name)
			continue
		}
		if !reflect.DeepEqual(f.Interface(), from.Field(i).Interface()) {
			t.Errorf("%s is %v, want %v", name, f, from.Field(i))
		}
	}
	for i := range to.NumField() {
		if f := to.Type().Field(i); f.IsExported() && to.Field(i).IsZero() {
			t.Errorf("nothing sets %s", f.Name)
		}
	}
	var again *pgconn.PgError
	if !errors.As(to.Addr().Interface().(error), &again) || *again != *driver {
		t.Errorf("errors.As gives %+v, want %+v", again, driver)
	}
}

func TestPGErrorSeverityOfOldServers(t *testing.T) {
	if got := providers.NewPGError(&pgconn.PgError{Severity: "FATAL"}).Severity; got != "FATAL" {
		t.Errorf("Severity = %q", got)
	}
}

func TestNewPGErrorOfNoServerError(t *testing.T) {
	var nilServer *pgconn.PgError
	for _, err := range []error{
		nil, io.EOF, errors.Join(io.EOF, io.ErrClosedPipe), &providers.PGError{Code: "40001"},
		nilServer, fmt.Errorf("wrapped: %w", nilServer),
	} {
		if got := providers.NewPGError(err); got != nil {
			t.Errorf("NewPGError(%T) = %#v, want nil", err, got)
		}
	}
}

func TestPGErrorKeepsTheChain(t *testing.T) {
	server := serverError("23505", "ERROR")
	pg := providers.NewPGError(wrapped(server))
	var driver *pgconn.PgError
	if !errors.As(pg, &driver) || driver != server {
		t.Error("the driver's error is lost")
	}
	if !errors.Is(pg, io.ErrClosedPipe) {
		t.Error("what stood beside it is lost")
	}
	var state interface{ SQLState() string }
	if !errors.As(wrapped(pg), &state) || state.SQLState() != "23505" {
		t.Error("SQLState is lost")
	}
	if again := providers.NewPGError(pg); again == nil || again.Code != "23505" {
		t.Errorf("a PGError of a PGError is %#v", again)
	}
}

func TestPGErrorText(t *testing.T) {
	server := serverError("23505", "ERROR")
	server.Message = `duplicate key value violates unique constraint "users_email_key"`
	server.Detail = "Key (email)=(ann@example.org) already exists."
	server.Where = "COPY users, line 1: ann@example.org"
	server.InternalQuery = "select 'ann@example.org'"
	pg := providers.NewPGError(fmt.Errorf("insert ann@example.org: %w", server))
	want := server.Message + " (SQLSTATE 23505)"
	if got := pg.Error(); got != want {
		t.Errorf("Error() = %s, want %s", got, want)
	}
	for _, verb := range []string{"%v", "%s", "%+v", "%q"} {
		if got := fmt.Sprintf(verb, pg); strings.Contains(got, "ann@") {
			t.Errorf("%s shows the row: %s", verb, got)
		}
	}
	pg.Hint = "Try another."
	if got := pg.Error(); got != server.Message+" (hint: Try another.) (SQLSTATE 23505)" {
		t.Errorf("with a hint: %s", got)
	}
	huge := providers.NewPGError(&pgconn.PgError{Code: "\x00", Message: strings.Repeat("m", 1<<20)})
	if got := huge.Error(); len(got) < 1<<20 {
		t.Errorf("a long message is cut to %d", len(got))
	}
}

// predicates by name, so that a table can say which ones hold.
func predicates(e *providers.PGError) []string {
	var held []string
	for name, is := range map[string]func() bool{
		"connection": e.IsConnectionError, "retryable": e.IsRetryable, "constraint": e.IsConstraintViolation,
		"stale plan": e.IsStalePlan, "unique": e.IsUniqueViolation, "foreign key": e.IsForeignKeyViolation,
		"check": e.IsCheckViolation, "not null": e.IsNotNullViolation, "serialization": e.IsSerializationFailure,
		"deadlock": e.IsDeadlock, "read only": e.IsReadOnly, "canceled": e.IsQueryCanceled,
		"too many": e.IsTooManyConnections, "duplicate": e.IsDuplicateObject,
	} {
		if is() {
			held = append(held, name)
		}
	}
	slices.Sort(held)
	return held
}

func TestPGErrorPredicates(t *testing.T) {
	for code, want := range map[string][]string{
		"08000": {"connection"}, "08001": {"connection"}, "08003": {"connection"}, "08004": {"connection"},
		"08006": {"connection"}, "08007": {"connection"}, "08P01": {"connection"},
		"57P01": {"connection"}, "57P02": {"connection"}, "57P03": {"connection"}, "57P04": {"connection"}, "57P05": {"connection"},
		"25P03": {"connection"}, // idle_in_transaction_session_timeout ended the session
		"25P04": {"connection"}, // and so does transaction_timeout
		"53300": {"connection", "too many"},
		"42P07": {"duplicate"}, "42710": {"duplicate"},
		"40001": {"retryable", "serialization"},
		"40P01": {"deadlock", "retryable"},
		"40000": nil, "40002": nil,
		"40003": nil, // nobody knows whether it was done: never again blindly
		"23000": {"constraint"}, "23001": {"constraint"}, "23P01": {"constraint"},
		"23502": {"constraint", "not null"}, "23503": {"constraint", "foreign key"},
		"23505": {"constraint", "unique"}, "23514": {"check", "constraint"},
		"25006": {"read only"}, "25P02": nil,
		"57014": {"canceled"}, "57000": nil,
		"0A000": nil, // only from the plan cache
		"28P01": nil, "53100": nil, "53200": nil, "42P01": nil, "22P02": nil, "00000": nil,
		"":   nil, // bad input
		"08": {"connection"},
		"0":  nil, "2": nil, "23": {"constraint"}, "\x00\x00": nil, " 40001": nil, "40001 ": nil, "40p01": nil,
	} {
		if got := predicates(&providers.PGError{Code: code}); !slices.Equal(got, want) {
			t.Errorf("%q is %q, want %q", code, got, want)
		}
	}
}

// Only the connection to the server itself counts, not one that a statement there
// makes to a third one.
func TestPGErrorOfAThirdServer(t *testing.T) {
	for _, tc := range []struct {
		severity, routine string
		want              bool
	}{
		{"ERROR", "exec_stmt_raise", false},
		{"FATAL", "ProcessStartupPacket", true},
		{"PANIC", "XLogWrite", true},
		{"ERROR", "", true}, // a balancer's
		{"FATAL", "", true},
	} {
		for _, code := range []string{"08000", "08001", "08006", "08P01"} {
			if got := (&providers.PGError{Code: code, Severity: tc.severity, Routine: tc.routine}).IsConnectionError(); got != tc.want {
				t.Errorf("%s %s of %q: IsConnectionError() = %v", tc.severity, code, tc.routine, got)
			}
		}
	}
}

func TestPGErrorStalePlan(t *testing.T) {
	for _, tc := range []struct {
		code, routine string
		want          bool
	}{
		{"0A000", "RevalidateCachedQuery", true},
		{"0A000", "transformStmt", false},
		{"0A000", "", false},
		{"42P01", "RevalidateCachedQuery", false},
	} {
		if got := (&providers.PGError{Code: tc.code, Routine: tc.routine}).IsStalePlan(); got != tc.want {
			t.Errorf("%s of %s: IsStalePlan() = %v", tc.code, tc.routine, got)
		}
	}
}
