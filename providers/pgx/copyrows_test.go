package pgx

import (
	"errors"
	"io"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// However many rows there are, no more of them are held than fill a message.
func TestRowsAreNotHeldBehindTheMessage(t *testing.T) {
	const count = 100_000
	n := 0
	r := &rowReader{
		source: pgx.CopyFromFunc(func() ([]any, error) {
			if n == count {
				return nil, nil
			}
			n++
			return []any{"a text of some length, which does not divide a message"}, nil
		}),
		types:   pgtype.NewMap(),
		columns: []pgconn.FieldDescription{{Name: "v", DataTypeOID: pgtype.TextOID}},
	}
	message, total := make([]byte, feedSize), 0
	for {
		read, err := r.Read(message)
		total += read
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if r.rows != count || total < count*50 {
		t.Errorf("%d rows in %d bytes", r.rows, total)
	}
	if cap(r.buffer) > 2*feedSize {
		t.Errorf("%d bytes are held for messages of %d", cap(r.buffer), feedSize)
	}
}
