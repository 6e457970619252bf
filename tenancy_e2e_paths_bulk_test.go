package pgkeel_test

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/bulk"
)

// refusedCopy is a COPY into a table that the server refuses to copy into.
func refusedCopy(copyFrom leakPath) leakPath {
	return func(ctx context.Context, o *leakOp) error {
		err := copyFrom(ctx, o)
		var pg *pgkeel.PGError
		if errors.As(err, &pg) && pg.Code == "0A000" {
			return nil
		}
		if err == nil {
			o.s.ledger.leak(o.path, "COPY FROM went around the policies")
		}
		return err
	}
}

var leakTable = pgx.Identifier{"items"}

var bulkPaths = map[string]leakPath{
	"bulk.CopyUpsert": func(ctx context.Context, o *leakOp) error {
		key := o.s.ledger.intend(o.tenant, o.path)
		u := bulk.Upsert{
			Into: bulk.Into{Table: leakTable, Columns: []string{"owner", "key", "touched"}}, Conflict: []string{"owner", "key"},
		}
		_, err := bulk.CopyUpsert(ctx, o.s.db, u, bulk.FromSeq2(func(yield func([]any, error) bool) {
			_ = yield([]any{o.tenant, key, o.tenant}, nil) && yield([]any{o.tenant, int64(0), o.tenant}, o.callback())
		}))
		if err == nil {
			o.wrote(nil, key)
		}
		return err
	},
	"bulk.CopyTo": func(ctx context.Context, o *leakOp) error {
		return o.copyTo(ctx, bulk.From{Table: leakTable, Columns: []string{"owner", "key"}})
	},
	"bulk.CopyTo of a query": func(ctx context.Context, o *leakOp) error {
		return o.copyTo(ctx, bulk.From{Query: "select owner, key from items limit 50"})
	},
	"bulk.CopyFrom": func(ctx context.Context, o *leakOp) error {
		key := o.s.ledger.intend(o.tenant, o.path)
		_, err := bulk.CopyFrom(ctx, o.s.db, bulk.Into{Table: leakTable, Columns: []string{"owner", "key"}},
			bulk.FromReader(strings.NewReader(o.tenant+"\t"+strconv.FormatInt(key, 10)+"\n"), bulk.Text{}))
		o.wrote(err, key)
		return err
	},
	"CopyFrom": func(ctx context.Context, o *leakOp) error {
		key := o.s.ledger.intend(o.tenant, o.path)
		_, err := o.s.db.CopyFrom(ctx, leakTable, []string{"owner", "key"}, pgx.CopyFromRows([][]any{{o.tenant, armed{o, key}}}))
		o.wrote(err, key)
		return err
	},
}

// copyTo copies rows out.
func (o *leakOp) copyTo(ctx context.Context, from bulk.From) error {
	var out strings.Builder
	var w io.Writer = &out
	if o.fault == badCallback || o.fault == badCallbackPanic {
		w = failingWriter{o}
	}
	from.Format = bulk.Text{}
	_, err := bulk.CopyTo(ctx, o.s.db, from, w)
	var items []item
	for line := range strings.Lines(out.String()) {
		owner, number, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		key, numberErr := strconv.ParseInt(number, 10, 64)
		if ok && numberErr == nil {
			items = append(items, item{owner, key})
		}
	}
	return o.saw(items, err)
}

type failingWriter struct{ op *leakOp }

// Write fails.
func (w failingWriter) Write(p []byte) (int, error) { return len(p), w.op.callback() }
