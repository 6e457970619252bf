// Package bulk moves rows by COPY, PostgreSQL's fast way in and out.
//
//	res, err := bulk.CopyFrom(ctx, db, bulk.Into{
//		Table: pgx.Identifier{"public", "cities"}, Columns: []string{"id", "name"},
//	}, bulk.FromSlice(cities))
//
// [CopyFrom] loads from a [Source]: slices, iterators and channels of structs,
// maps, rows or single values, pgx's own sources, and readers of CSV, text and
// binary data. [CopyTo] writes a table or the result of a query to a writer.
// [CopyUpsert] inserts or updates, through a temporary table. [ParallelLoad]
// loads a large file over several connections, in committed chunks, and goes on
// after a crash without a row twice or missing.
//
// Every function takes what it needs by a small interface, which *pgkeel.DB,
// *pgkeel.Conn and pgkeel.Tx satisfy.
//
// # Errors
//
// What is wrong with the options is found before anything is sent, all of it at
// once, each an [*OptionError]. An error about the data is a [*CopyError] with
// line and column. A COPY that fails leaves no row behind; only ParallelLoad
// keeps the chunks that it committed, and its ledger of them.
//
// No error text contains a value of the data, unless Into.ValuesInErrors allows
// it. The server's own error stays in the chain, with all it said.
//
// # Memory
//
// Nothing holds more than a few buffers of the data, whatever their size:
// CopyFrom and CopyTo well under a megabyte, ParallelLoad one chunk for each
// worker and one more.
//
// # Concurrency
//
// A source is used up by one call. Callbacks are called by one goroutine at a
// time, which need not be the caller's, and never after the call has returned.
package bulk
