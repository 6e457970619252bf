package providers

import (
	"errors"
	"strings"
	"testing"
)

func TestBatchStatesHaveNames(t *testing.T) {
	for state, want := range map[BatchState]string{
		BatchNotAttempted: "not attempted", BatchOK: "ok", BatchFailed: "failed", BatchRolledBack: "rolled back",
		BatchUnknown: "unknown", 99: "invalid",
	} {
		if got := state.String(); got != want {
			t.Errorf("%d: %s", state, got)
		}
	}
}

func TestBatchErrorsNameTheStatement(t *testing.T) {
	cause := errors.New("why")
	long := "select\t" + strings.Repeat("é", 200)
	for want, e := range map[string]*BatchError{
		"pgkeel: batch: statement 3 (select 1) failed (rolled back): why":               {Index: 3, SQL: "select\n 1", Operation: BatchStatement, Result: OutcomeRolledBack},
		"pgkeel: batch: the callback of statement 3 (select 1) failed (committed): why": {Index: 3, SQL: "select 1", Operation: BatchCallback, Result: OutcomeCommitted},
		"pgkeel: batch: the commit of statements 3 to 5 failed (unknown): why":          {Index: 3, Last: 5, Operation: BatchCommit},
		"pgkeel: batch: the source failed at statement 7: why":                          {Index: 7, Operation: BatchSource},
		"pgkeel: batch: the connection failed at statement 7: why":                      {Index: 7, Operation: BatchConnection},
		"pgkeel: batch: the context ended at statement 7: why":                          {Index: 7, Operation: BatchContext},
	} {
		e.Err = cause
		if e.Error() != want || !errors.Is(e, cause) || e.Outcome() != e.Result {
			t.Errorf("%v", e)
		}
	}
	if text := (&BatchError{SQL: long, Operation: BatchStatement, Err: cause}).Error(); len(text) > 250 || !strings.Contains(text, "é…") {
		t.Error(text)
	}
}

func TestBatchReportOutcome(t *testing.T) {
	failed := func(result Outcome) *BatchError {
		return &BatchError{Operation: BatchStatement, Result: result, Err: errors.New("why")}
	}
	for _, tc := range []struct {
		states []BatchState
		result Outcome // of the error
		want   Outcome
	}{
		{nil, OutcomeNotSent, OutcomeNotSent},
		{[]BatchState{BatchNotAttempted, BatchFailed}, OutcomeNotSent, OutcomeNotSent},
		{[]BatchState{BatchFailed, BatchNotAttempted}, OutcomeRolledBack, OutcomeRolledBack},
		{[]BatchState{BatchRolledBack, BatchFailed}, OutcomeNotSent, OutcomeRolledBack},
		{[]BatchState{BatchOK, BatchFailed}, OutcomeRolledBack, OutcomeUnknown},
		{[]BatchState{BatchRolledBack, BatchUnknown}, OutcomeUnknown, OutcomeUnknown},
		{[]BatchState{BatchFailed}, OutcomeCommitted, OutcomeUnknown}, // of a callback; the statement stands
	} {
		r := BatchReport{States: tc.states}
		if r.Err() != nil {
			t.Error("an error out of nothing")
		}
		r.Fail(failed(tc.result))
		if got := OutcomeOf(r.Err()); got != tc.want {
			t.Errorf("%v, %s: %s", tc.states, tc.result, got)
		}
	}
}

func TestBatchReportKeepsTheFirstErrors(t *testing.T) {
	var r BatchReport
	for i := range MaxBatchErrors + 5 {
		r.Fail(&BatchError{Index: i, Operation: BatchStatement, Err: errors.New("why")})
	}
	if len(r.Errors) != MaxBatchErrors || r.MoreErrors != 5 {
		t.Errorf("%d and %d", len(r.Errors), r.MoreErrors)
	}
	if text := r.Err().Error(); !strings.HasSuffix(text, "(and 104 more)") {
		t.Error(text)
	}
}
