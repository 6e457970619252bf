package providertest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

// errStream is what the reader and the writer of the suite fail with.
var errStream = errors.New("the caller's own")

type brokenStream struct{}

func (brokenStream) Read([]byte) (int, error)  { return 0, errStream }
func (brokenStream) Write([]byte) (int, error) { return 0, errStream }

func testRawCopier(t *testing.T, s suite) {
	claims(t, s, table, func(t *testing.T, c providers.RawCopier, q querier) {
		const in, out = "copy t from stdin (format csv)", "copy (select n from t order by n) to stdout (format csv)"
		tag, err := c.CopyFromReader(t.Context(), strings.NewReader("2\n1\n"), in)
		if err != nil || tag.RowsAffected() != 2 {
			t.Errorf("%q, %v", tag, err)
		}
		var data bytes.Buffer
		if tag, err = c.CopyToWriter(t.Context(), &data, out); err != nil || tag.RowsAffected() != 2 || data.String() != "1\n2\n" {
			t.Errorf("%q, %q, %v", tag, data.String(), err)
		}
		for what, refused := range map[string]error{
			"a dead context":        second(c.CopyFromReader(ended(), strings.NewReader(""), in)),
			"no reader":             second(c.CopyFromReader(t.Context(), nil, in)),
			"no writer":             second(c.CopyToWriter(t.Context(), nil, out)),
			"the other way":         second(c.CopyToWriter(t.Context(), io.Discard, in)),
			"the other way, too":    second(c.CopyFromReader(t.Context(), strings.NewReader(""), out)),
			"more than a statement": second(c.CopyFromReader(t.Context(), strings.NewReader(""), in+"; select 1")),
		} {
			wantOutcome(t, what, refused, providers.OutcomeNotSent)
		}
		_, err = c.CopyFromReader(t.Context(), io.MultiReader(strings.NewReader("3\n"), brokenStream{}), in)
		wantOutcome(t, "a broken reader", err, providers.OutcomeRolledBack)
		if !errors.Is(err, errStream) {
			t.Errorf("%v", err)
		}
		if _, inTx := q.(providers.Tx); inTx {
			wantCode(t, "the transaction", execError(t, q, "select 1"), "25P02")
			return
		}
		_, err = c.CopyFromReader(t.Context(), strings.NewReader("4\nx\n"), in)
		wantCode(t, "bad data", err, "22P02")
		if n := traces(t, q); n != 2 {
			t.Errorf("%d rows: half of a COPY is there", n)
		}
		// Last, since it may cost the connection.
		if _, err = c.CopyToWriter(t.Context(), brokenStream{}, out); !errors.Is(err, errStream) {
			t.Errorf("%v", err)
		}
		if err = execError(t, q, "select 1"); err != nil {
			wantOutcome(t, "a connection that was given up", err, providers.OutcomeNotSent)
		}
	})
}

func second[T any](_ T, err error) error { return err }
