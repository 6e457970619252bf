package bulk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// DefaultWorkers is how many connections load at a time.
	DefaultWorkers = 4
	// DefaultChunkBytes is the size of a chunk: large enough that its commit
	// weighs little, and small enough for all that are in memory at a time.
	DefaultChunkBytes = 4 << 20

	maxWorkers    = 256
	minChunkBytes = 1 << 10
	maxChunkBytes = maxRecord

	// loadAttempts is how often a chunk is tried while its connection dies, or
	// it conflicts with others. Between two is a random pause of up to
	// loadPause, doubled each time, and at most maxLoadPause.
	loadAttempts = 10
	loadPause    = 50 * time.Millisecond
	maxLoadPause = 2 * time.Second
)

// Load says what is loaded by [ParallelLoad], and how.
type Load struct {
	// ID names the load in the ledger. The same load has the same ID when it is
	// run again.
	ID string
	// Into is where the rows go. Where, OnError and the like hold for each
	// chunk; Freeze cannot.
	Into Into
	// Format is CSV or Text; binary data cannot be split. A header is read once,
	// and given to each chunk.
	Format Format
	// Workers is how many connections load at a time. Default: 4.
	Workers int
	// ChunkBytes is how many bytes of plain data are committed at a time, less
	// what it takes to end with a record. It must be the same when the load is
	// run again. Default: 4 MiB. There are Workers and one more in memory.
	ChunkBytes int
	// Ledger is the table of committed chunks, in the same database. It is made
	// where it is missing. Default: pgkeel_loads.
	Ledger pgx.Identifier
}

// LoadResult is what a load came to, this run and those before.
type LoadResult struct {
	// Rows and Bytes are those of all committed chunks.
	Rows, Bytes int64
	// Chunks is how many are committed; Resumed is how many of them this run
	// found in the ledger.
	Chunks, Resumed int64
}

// LoadError says how far a load came that did not come to its end. What was
// committed stays. Run the load again, with the same data and ID, to go on.
type LoadError struct {
	// ID is the load's.
	ID string
	// Done is what is committed, as far as this run knows.
	Done LoadResult
	// Err is what ended it.
	Err error
}

func (e *LoadError) Error() string {
	return fmt.Sprintf("pgkeel: load %q stopped with %d chunks of %d rows committed; run it again to go on: %v", e.ID, e.Done.Chunks, e.Done.Rows, e.Err)
}

// Unwrap returns what ended it.
func (e *LoadError) Unwrap() error { return e.Err }

// Outcome is OutcomeUnknown, since a part is committed: the ledger knows which.
func (*LoadError) Outcome() providers.Outcome { return providers.OutcomeUnknown }

func (l *Load) validate(f *faults) {
	f.loadID("Load.ID", l.ID)
	l.Into.validate(f)
	l.Into.validateData(f, l.Format)
	f.addf(l.Into.Freeze, "Load.Into.Freeze", "cannot hold for chunks that are committed one by one; leave it out")
	f.addf(l.Into.Progress.Server != nil, "Load.Into.Progress.Server", "has no effect, as chunks are counted when they are committed; leave it out")
	if l.Format != nil {
		_, binary := l.Format.(Binary)
		f.addf(binary, "Load.Format", "binary data cannot be split; use CSV or Text, or CopyFrom")
		f.addf(embedsASCII(encodingOf(l.Format)), "Load.Format.Encoding", "%s has characters in which a byte looks like a quote or a line end; convert the data to UTF8, or use CopyFrom", encodingOf(l.Format))
	}
	f.addf(l.Workers < 0 || l.Workers > maxWorkers, "Load.Workers", "%d; from 1 to %d, or 0 for %d", l.Workers, maxWorkers, DefaultWorkers)
	f.addf(l.ChunkBytes != 0 && (l.ChunkBytes < minChunkBytes || l.ChunkBytes > maxChunkBytes), "Load.ChunkBytes",
		"%d; from %d to %d, or 0 for %d", l.ChunkBytes, minChunkBytes, maxChunkBytes, DefaultChunkBytes)
	f.table("Load.Ledger", l.Ledger)
}

func encodingOf(format Format) string {
	switch f := format.(type) {
	case CSV:
		return f.Encoding
	case Text:
		return f.Encoding
	}
	return ""
}

// embedsASCII reports whether an encoding uses bytes of ASCII inside of longer
// characters.
func embedsASCII(encoding string) bool {
	switch strings.ToUpper(strings.ReplaceAll(encoding, "-", "_")) {
	case "SJIS", "SHIFT_JIS", "MSKANJI", "WIN932", "WINDOWS932", "SHIFT_JIS_2004", "SHIFTJIS2004", "BIG5", "WIN950", "WINDOWS950",
		"GBK", "WIN936", "WINDOWS936", "UHC", "WIN949", "WINDOWS949", "GB18030", "JOHAB":
		return true
	}
	return false
}

func (l Load) withDefaults() Load {
	l.Format = plain(l.Format)
	if l.Workers == 0 {
		l.Workers = DefaultWorkers
	}
	if l.ChunkBytes == 0 {
		l.ChunkBytes = DefaultChunkBytes
	}
	if len(l.Ledger) == 0 {
		l.Ledger = pgx.Identifier{DefaultLedger}
	}
	return l
}

// ParallelLoad loads CSV or text data over several connections, in chunks that
// are committed one by one. A note of each chunk is committed with it, so that a
// load which was cut short, by an error or by the end of the process, goes on
// where it was when it is run again: no row comes twice, none is missing. It
// reads the data from the beginning again, and finds out if they are others.
//
// A chunk whose connection dies, also in its commit, is tried again; the note
// tells whether it was committed. An error that stops the load is a [*LoadError].
//
// The handle should have as many connections as there are workers. Several
// processes may run the same load at once.
func ParallelLoad[T Tx](ctx context.Context, on Beginner[T], load Load, r io.Reader) (LoadResult, error) {
	load = load.withDefaults()
	var f faults
	f.addf(on == nil, "on", "is nil")
	f.addf(r == nil, "r", "is nil")
	load.validate(&f)
	if err := f.join(); err != nil {
		return LoadResult{}, err
	}
	sql, needs := load.Into.statement(load.Format)
	if err := checkServer(ctx, on, needs); err != nil {
		return LoadResult{}, err
	}
	l := &loader[T]{
		load: load, on: on, sql: sql, meter: newMeter(ctx, load.Into.Progress),
		ledger: ledger{table: load.Ledger.Sanitize(), id: load.ID, target: targetOf(load.Into)},
	}
	err := l.run(ctx, r)
	l.mu.Lock()
	res := l.result // a reader that blocked may come back later
	l.mu.Unlock()
	if err != nil {
		l.meter.stop()
		return res, &LoadError{ID: load.ID, Done: res, Err: err}
	}
	l.meter.finish(res.Rows)
	return res, nil
}

func targetOf(into Into) string {
	if len(into.Columns) == 0 {
		return into.Table.Sanitize()
	}
	return into.Table.Sanitize() + " (" + quoteColumns(into.Columns) + ")"
}

// loader is a load under way.
type loader[T Tx] struct {
	load   Load
	on     Beginner[T]
	sql    string
	ledger ledger
	meter  *meter
	// done are the chunks that were committed before.
	done        map[int64]entry
	header      []byte
	headerLines int64

	mu     sync.Mutex
	result LoadResult
}

func (l *loader[T]) run(ctx context.Context, r io.Reader) error {
	if err := l.ledger.makeTable(ctx, l.on); err != nil {
		return err
	}
	var err error
	if l.done, err = l.ledger.read(ctx, l.on); err != nil {
		return err
	}
	return l.feed(ctx, r)
}

// splitGrace is how long the end of a load waits for a Read under way.
const splitGrace = 50 * time.Millisecond

// feed splits the data and hands the chunks to the workers. The data are read on
// a goroutine of their own, so that a Read that blocks cannot keep a load from
// ending.
func (l *loader[T]) feed(ctx context.Context, r io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	var crash atomic.Pointer[crashError]
	crashed := func(c *crashError) {
		crash.CompareAndSwap(nil, c)
		cancel()
	}
	chunks := make(chan chunk)
	free := make(chan []byte, l.load.Workers+1)
	for range l.load.Workers {
		group.Go(func() error {
			return caught(crashed, func() error { return l.work(ctx, chunks, free) })
		})
	}
	for range l.load.Workers + 1 {
		free <- nil
	}
	var splitErr error
	split := make(chan struct{})
	go func() {
		defer close(split)
		defer close(chunks)
		splitErr = caught(crashed, func() error { return l.read(ctx, r, chunks, free) })
	}()
	// The first error of a worker is why the splitting stopped, if both failed.
	err := group.Wait()
	if err == nil && crash.Load() == nil {
		<-split // there are no more chunks
	} else {
		timer := time.NewTimer(splitGrace)
		defer timer.Stop()
		select {
		case <-split:
		case <-timer.C: // what it reads from now on concerns nobody
		}
	}
	switch c := crash.Load(); {
	case c != nil && c.panicked != nil:
		panic(c.panicked)
	case c != nil:
		return c
	case err != nil:
		return err
	}
	return splitErr
}

// work loads chunks until there are no more.
func (l *loader[T]) work(ctx context.Context, chunks <-chan chunk, free chan<- []byte) error {
	for {
		select {
		case c, more := <-chunks:
			if !more {
				return nil
			}
			if err := l.loadChunk(ctx, c); err != nil {
				return err
			}
			free <- c.data
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read splits what the reader has.
func (l *loader[T]) read(ctx context.Context, r io.Reader, chunks chan<- chunk, free chan []byte) error {
	plain := decompress(r, l.load.Into.Compression)
	if lazy, ok := plain.(*lazyReader); ok {
		defer func() { _ = lazy.Close() }() // what it read was checked on the way
	}
	s := newSplitter(plain, l.load.Format, l.load.ChunkBytes)
	if l.load.Format.header() != NoHeader {
		if err := s.readHeader(); err != nil {
			return err
		}
		l.header, l.headerLines = s.header, s.line-1
	}
	return l.split(ctx, s, chunks, free)
}

// crashError is the end of one of the load's goroutines by code of the caller's.
type crashError struct{ panicked any }

func (*crashError) Error() string {
	return "pgkeel: bulk: the reader, or who watches the progress, ended its goroutine"
}

// caught runs fn, and ends the load where it panics or ends its goroutine.
func caught(crashed func(*crashError), fn func() error) error {
	returned := false
	defer func() {
		if !returned {
			crashed(&crashError{recover()}) // nil: runtime.Goexit
		}
	}()
	err := fn()
	returned = true
	return err
}

func (l *loader[T]) split(ctx context.Context, s *splitter, chunks chan<- chunk, free chan []byte) error {
	for {
		var buffer []byte
		select {
		case buffer = <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
		c, err := s.next(buffer)
		switch {
		case errors.Is(err, io.EOF) && s.no > 0:
			return l.checkEnd(s.no)
		case errors.Is(err, io.EOF):
			// The server looks at the table and the header in any case.
			c, s.no = chunk{offset: s.offset, line: s.line}, 1
		case err != nil:
			return err
		}
		if noted, ok := l.done[c.no]; ok {
			if err := l.ledger.verify(c.no, noted, l.entryOf(c)); err != nil {
				return err
			}
			l.count(noted, 1)
			free <- c.data
			continue
		}
		select {
		case chunks <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkEnd finds out data that are shorter than those that were loaded before.
func (l *loader[T]) checkEnd(chunks int64) error {
	for no := range l.done {
		if no >= chunks {
			return fmt.Errorf("%w: chunk %d of %q lies behind the end of the data", ErrLoadDiffers, no, l.load.ID)
		}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (l *loader[T]) entryOf(c chunk) entry {
	sum := crc32.Update(crc32.Checksum(l.header, castagnoli), castagnoli, c.data)
	return entry{target: l.ledger.target, offset: c.offset, bytes: int64(len(c.data)), checksum: int64(sum)}
}

func (l *loader[T]) count(e entry, resumed int64) {
	l.mu.Lock()
	l.result.Rows += e.rows
	l.result.Bytes += e.bytes
	l.result.Chunks++
	l.result.Resumed += resumed
	l.mu.Unlock()
	l.meter.add(e.rows, e.bytes)
}

// loadChunk loads a chunk, as often as it takes.
func (l *loader[T]) loadChunk(ctx context.Context, c chunk) error {
	e := l.entryOf(c)
	for attempt := 1; ; attempt++ {
		err := l.tryChunk(ctx, c, &e)
		if err == nil {
			l.count(e, 0)
			return nil
		}
		if attempt >= loadAttempts || !isPassing(err) || !pause(ctx, attempt) {
			return l.explain(err, c)
		}
	}
}

// tryChunk loads a chunk in a transaction, with its note.
func (l *loader[T]) tryChunk(ctx context.Context, c chunk, e *entry) error {
	tx, err := l.on.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing
	noted, err := l.ledger.claim(ctx, tx, c.no, *e)
	if err != nil {
		return err
	}
	if noted != nil { // an earlier attempt did it after all, or somebody else
		e.rows = noted.rows
		return l.ledger.verify(c.no, *noted, *e)
	}
	tag, err := tx.CopyFromReader(ctx, io.MultiReader(bytes.NewReader(l.header), bytes.NewReader(c.data)), l.sql)
	if err != nil {
		return err
	}
	e.rows = tag.RowsAffected()
	if err := l.ledger.complete(ctx, tx, c.no, e.rows); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// explain makes lines of the chunk lines of the data.
func (l *loader[T]) explain(err error, c chunk) error {
	err = explain(err, &l.load.Into)
	var located *CopyError
	if errors.As(err, &located) && located.Line > l.headerLines {
		located.Line += c.line - 1 - l.headerLines
	}
	return err
}

// isPassing reports whether another attempt can help: the connection died, at
// whatever moment, none could be made, or the chunk conflicted with others.
func isPassing(err error) bool {
	var pg *providers.PGError
	if errors.As(err, &pg) {
		return pg.IsConnectionError() || pg.IsRetryable()
	}
	var option *OptionError
	if errors.As(err, &option) || errors.Is(err, ErrLoadDiffers) || errors.Is(err, providers.ErrPoolClosed) {
		return false
	}
	outcome := providers.OutcomeOf(err)
	return outcome == providers.OutcomeUnknown || errors.Is(err, providers.ErrUnreachable) || errors.Is(err, providers.ErrPoolExhausted)
}

// pause waits before the next attempt, unless the context ends first.
func pause(ctx context.Context, attempt int) bool {
	d := rand.N(min(loadPause<<attempt, maxLoadPause)) + 1 //nolint:gosec // jitter needs no secrecy
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
