package pipeline

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// A statement that brings a limit of its own is not ended by the one that the session
// has for somebody else, and that is in force until its own is.
func TestAnothersLimitEndsTheSettings(t *testing.T) {
	described := bytesOf(t, &pgproto3.ParseComplete{}, &pgproto3.ParameterDescription{}, &pgproto3.NoData{}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	ended := bytesOf(t, &pgproto3.ParseComplete{}, &pgproto3.BindComplete{}, &pgproto3.ErrorResponse{Severity: "ERROR", Code: codeQueryCanceled}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	done := bytesOf(t, &pgproto3.BindComplete{}, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")},
		&pgproto3.BindComplete{}, &pgproto3.CommandComplete{CommandTag: []byte("UPDATE 1")}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	e, _ := scriptedEngine(t, described, ended, done)
	result, err := e.Do(t.Context(), Statement{SQL: "update t set n = 1", Settings: []string{statementTimeout, "5000"}})
	if err != nil {
		t.Fatal(err)
	}
	defer result.Release()
	if result.Err() != nil || result.Tag().RowsAffected() != 1 {
		t.Errorf("%v, %s", result.Err(), result.Tag())
	}
}
