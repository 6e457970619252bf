// Package zstd is the Zstandard format for package bulk:
//
//	_, err := bulk.CopyFrom(ctx, db, bulk.Into{
//		Table: pgx.Identifier{"cities"}, Compression: zstd.Codec{},
//	}, bulk.FromReader(file, bulk.CSV{}))
//
// It is a module of its own, so that only those carry its library who use it.
//
// # Defaults and limits
//
// It writes at the library's default level, and reads whatever asks for a window
// of at most 64 MiB, unless MaxWindow says otherwise. Both work on the goroutine
// that uses them, and hold a few megabytes each.
package zstd
