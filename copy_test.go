package pgkeel_test

import (
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/batch"
)

// A Tx that nobody began is told from a provider that can do less.
func TestBulkOnATxThatIsNone(t *testing.T) {
	var tx pgkeel.Tx
	b := &pgx.Batch{}
	b.Queue("select 1")
	for name, run := range map[string]func() error{
		"batch": func() error { _, err := batch.Run(t.Context(), tx, b, batch.Options{}); return err },
		"copy": func() error {
			_, err := tx.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows(nil))
			return err
		},
		"copy in": func() error {
			_, err := tx.CopyFromReader(t.Context(), strings.NewReader(""), "copy t from stdin")
			return err
		},
		"copy out": func() error {
			_, err := tx.CopyToWriter(t.Context(), io.Discard, "copy t to stdout")
			return err
		},
	} {
		err := run()
		if err == nil || !strings.HasSuffix(err.Error(), "the Tx is a zero value; Begin makes one; nothing was sent") {
			t.Errorf("%s: %v", name, err)
		}
		mustBe(t, err, pgkeel.OutcomeNotSent)
	}
}
