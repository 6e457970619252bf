package pgkeel

import (
	"context"
	"errors"
	"io"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// CopyFromReader runs sql, a COPY … FROM STDIN, with what r yields. Package bulk
// builds the statement and has more to offer. See [providers.RawCopier].
func (db *DB) CopyFromReader(ctx context.Context, r io.Reader, sql string) (pgconn.CommandTag, error) {
	return copyFromReader(ctx, db.pool, r, sql)
}

// CopyToWriter runs sql, a COPY … TO STDOUT, and writes the data to w. Package
// bulk builds the statement and has more to offer. See [providers.RawCopier].
func (db *DB) CopyToWriter(ctx context.Context, w io.Writer, sql string) (pgconn.CommandTag, error) {
	return copyToWriter(ctx, db.pool, w, sql)
}

// CopyFromReader is [DB.CopyFromReader] on this connection.
func (c *Conn) CopyFromReader(ctx context.Context, r io.Reader, sql string) (pgconn.CommandTag, error) {
	return copyFromReader(ctx, c.conn, r, sql)
}

// CopyToWriter is [DB.CopyToWriter] on this connection.
func (c *Conn) CopyToWriter(ctx context.Context, w io.Writer, sql string) (pgconn.CommandTag, error) {
	return copyToWriter(ctx, c.conn, w, sql)
}

// CopyFromReader is [DB.CopyFromReader] in this transaction. A COPY that fails
// fails the transaction; a savepoint can undo it.
func (tx Tx) CopyFromReader(ctx context.Context, r io.Reader, sql string) (pgconn.CommandTag, error) {
	return copyFromReader(ctx, tx.tx, r, sql)
}

// CopyToWriter is [DB.CopyToWriter] in this transaction.
func (tx Tx) CopyToWriter(ctx context.Context, w io.Writer, sql string) (pgconn.CommandTag, error) {
	return copyToWriter(ctx, tx.tx, w, sql)
}

func copyFromReader(ctx context.Context, target any, r io.Reader, sql string) (pgconn.CommandTag, error) {
	copier, ok := target.(providers.RawCopier)
	if !ok {
		return pgconn.CommandTag{}, refusef("CopyFromReader: %w by this provider", errors.ErrUnsupported)
	}
	return copier.CopyFromReader(ctx, r, sql)
}

func copyToWriter(ctx context.Context, target any, w io.Writer, sql string) (pgconn.CommandTag, error) {
	copier, ok := target.(providers.RawCopier)
	if !ok {
		return pgconn.CommandTag{}, refusef("CopyToWriter: %w by this provider", errors.ErrUnsupported)
	}
	return copier.CopyToWriter(ctx, w, sql)
}
