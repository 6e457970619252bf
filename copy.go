package pgkeel

import (
	"context"
	"errors"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// CopyFrom loads the rows of src into columns of a table by COPY and returns
// their number.
func (db *DB) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	return copyFrom(ctx, db.pool, table, columns, src)
}

// CopyFrom loads the rows of src into columns of a table by COPY and returns
// their number.
func (c *Conn) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	return copyFrom(ctx, c.conn, table, columns, src)
}

// CopyFrom loads the rows of src into columns of a table by COPY and returns
// their number.
func (tx Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	return copyFrom(ctx, tx.tx, table, columns, src)
}

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

// unsupported says why target cannot do what was asked of it.
func unsupported(method string, target any) error {
	if target == nil {
		return refusef("%s: the Tx is a zero value; Begin makes one", method)
	}
	return refusef("%s: %w by this provider", method, errors.ErrUnsupported)
}

func copyFrom(ctx context.Context, target any, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if src == nil {
		return 0, refusef("CopyFrom: the source is nil")
	}
	copier, ok := target.(providers.Copier)
	if !ok {
		return 0, unsupported("CopyFrom", target)
	}
	return copier.CopyFrom(ctx, table, columns, src)
}

func copyFromReader(ctx context.Context, target any, r io.Reader, sql string) (pgconn.CommandTag, error) {
	copier, ok := target.(providers.RawCopier)
	if !ok {
		return pgconn.CommandTag{}, unsupported("CopyFromReader", target)
	}
	return copier.CopyFromReader(ctx, r, sql)
}

func copyToWriter(ctx context.Context, target any, w io.Writer, sql string) (pgconn.CommandTag, error) {
	copier, ok := target.(providers.RawCopier)
	if !ok {
		return pgconn.CommandTag{}, unsupported("CopyToWriter", target)
	}
	return copier.CopyToWriter(ctx, w, sql)
}
