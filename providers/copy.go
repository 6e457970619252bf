package providers

import (
	"context"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
)

// RawCopier is a pool, connection or transaction that moves the data of a COPY
// as they are, in whatever format the statement says.
//
// The statement is one COPY, written by the caller: identifiers and literals in
// it are the caller's to quote. Package bulk builds it.
//
// A context that ends stops the server's work. The connection is kept where
// the server confirms that, and closed otherwise. An error or a panic of the
// reader or writer is the caller's; the error that comes back names it.
type RawCopier interface {
	// CopyFromReader runs sql, a COPY … FROM STDIN, with what r yields until
	// its io.EOF. An error means that no row was loaded. r is read on another
	// goroutine, a buffer ahead; a Read that blocks does not hold up the end
	// of the call, so one that is under way when the context ends, or the
	// server refuses the data, may still return after it.
	CopyFromReader(ctx context.Context, r io.Reader, sql string) (pgconn.CommandTag, error)
	// CopyToWriter runs sql, a COPY … TO STDOUT, and writes what the server
	// sends to w, a row at a time in the text formats: a writer for which small
	// writes are dear should be buffered. After an error w holds a part of the
	// data. A Write that blocks blocks the call.
	CopyToWriter(ctx context.Context, w io.Writer, sql string) (pgconn.CommandTag, error)
}

// Interrupter is a source of rows whose Next may block. A provider calls
// Interrupt, from another goroutine, when the server refuses the rows: Next
// should then return false, or the caller learns of the refusal only when the
// next row comes.
type Interrupter interface {
	Interrupt()
}
