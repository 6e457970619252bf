// Package bench is the command pgkeel bench: pgkeel's handle beside bare
// pgxpool, in one process, on one database.
//
// # Method
//
// Absolute numbers say more about a machine than about a library, so every
// figure is a ratio of two sides that ran side by side. A scenario is a piece of
// work written once for each side. Both get the same DSN, the same pool size and
// pgx's defaults, and are warmed up. Then come the rounds: in each the sides work
// in turns, a slice of 2 milliseconds at a time, in the order A B B A, until both
// have had their time. A machine that is shared changes its speed by a third and
// more within a tenth of a second; so short a turn has both sides meet the same
// conditions. A round gives a ratio per metric; the median of the rounds is the
// result, and their quartiles are its spread.
//
// Each round begins without garbage; a collection on the way falls to the sides
// in proportion to what they allocate. CPU time is that of this process: the
// server is another one. Allocations are counted over the whole process too,
// hence the fractions: a health check of either pool can fall into a turn.
//
// The scenarios of pipelining fix what a promise depends on: the number of
// callers, and how many connections each side has. Where pgxpool gets its best
// size, that is found first by trying each for a moment. A server far away is one
// behind a proxy in this process that delivers a millisecond late each way, on
// both sides; the CPU time then includes the proxy's. Slices are longer there,
// since a turn ends when what is under way at its end has ended.
//
// # Output
//
// A table, or with -json one object a line and metric. The throughput bears the
// scenario's name; its other metrics append .cpu, .p50, .p99 and .bytes. Below the
// table stands what the sides had to tell, and which promises held.
//
// # On your database
//
// With -dsn everything happens in a schema of its own with a random name, which
// is dropped at the end, also after an error or an interrupt. The user needs the
// right to create schemas.
package bench
