package bulk

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// Progress is how far a COPY has come.
type Progress struct {
	// Rows copied so far, or -1 where only the server knows and is not asked:
	// with a reader before the end.
	Rows int64
	// Bytes of plain data so far: those handed to the server or written by it.
	// With rows of Go values 0, unless the server is asked.
	Bytes int64
	// Excluded is how many rows WHERE left out so far. 0 unless the server is
	// asked.
	Excluded int64
	// Elapsed is the time since the begin.
	Elapsed time.Duration
	// Done says that this is the last one, after success.
	Done bool
	// ServerErr is why the server could not be asked. It is not asked again.
	ServerErr error
}

// RowsPerSecond is the rate on average, or 0 where it is not known.
func (p Progress) RowsPerSecond() float64 { return perSecond(max(p.Rows, 0), p.Elapsed) }

// BytesPerSecond is the rate on average.
func (p Progress) BytesPerSecond() float64 { return perSecond(p.Bytes, p.Elapsed) }

func perSecond(n int64, over time.Duration) float64 {
	if over <= 0 {
		return 0
	}
	return float64(n) / over.Seconds()
}

// DefaultInterval is the least time between two calls of Watch.Func.
const DefaultInterval = 500 * time.Millisecond

// serverPatience bounds a look at the server, during which the COPY waits.
const serverPatience = time.Second

// clockRows is how many rows go by between two looks at the clock.
const clockRows = 64

// Watch says who is told of a COPY's progress, and how often.
type Watch struct {
	// Func is called with the progress so far, and once more at the end if the
	// COPY succeeded. The COPY waits for it. A panic is the caller's.
	Func func(Progress)
	// Interval is the least time between two calls. Default: half a second.
	Interval time.Duration
	// Bytes, if positive, has Func called after so many bytes instead.
	Bytes int64
	// Server is asked for what pg_stat_progress_copy knows before each call:
	// the handle, or anything else with another connection than the COPY's.
	// Two COPYs of the same text at once cannot be told apart, and are not
	// reported. Default: it is not asked.
	Server providers.Querier
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

func (w Watch) validate(f *faults, field string) {
	f.addf(w.Interval < 0, field+".Interval", "%s is negative; leave it 0 for %s", w.Interval, DefaultInterval)
	f.addf(w.Bytes < 0, field+".Bytes", "%d is negative; leave it 0 to go by time", w.Bytes)
	f.addf(w.Bytes > 0 && w.Interval > 0, field+".Bytes", "and Interval are both set; leave one out")
	f.addf(w.Func == nil && (w.Interval != 0 || w.Bytes != 0 || w.Server != nil || w.Now != nil), field+".Func", "is missing, so nobody would be told")
}

// meter counts, and tells the watcher now and then. The zero meter of nobody
// only counts.
type meter struct {
	ctx   context.Context //nolint:containedctx // that of the COPY, whose progress this is
	watch Watch

	mu       sync.Mutex
	over     bool
	begun    time.Time
	told     time.Time
	toldAt   int64
	progress Progress
	// sql or table is how the server knows the COPY.
	sql       string
	table     string
	rows      int64
	countRows bool
}

func newMeter(ctx context.Context, watch Watch) *meter {
	if watch.Now == nil {
		watch.Now = time.Now
	}
	if watch.Interval == 0 {
		watch.Interval = DefaultInterval
	}
	m := &meter{ctx: ctx, watch: watch, progress: Progress{Rows: -1}}
	if watch.Func != nil {
		m.begun = watch.Now()
		m.told = m.begun
	}
	return m
}

// onStatement tells by which statement the COPY can be found.
func (m *meter) onStatement(sql string) { m.sql = sql }

// onTable tells into which table the driver's own statement copies.
func (m *meter) onTable(table pgx.Identifier) {
	m.table, m.countRows = table.Sanitize(), true
}

// addRow counts a row. It is called for each, so it seldom looks at the clock.
func (m *meter) addRow() {
	if m.watch.Func == nil {
		return
	}
	if m.rows++; m.rows%clockRows == 0 {
		m.add(clockRows, 0)
	}
}

// add counts rows and bytes, and tells if it is time.
func (m *meter) add(rows, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress.Bytes += bytes
	if rows > 0 {
		m.progress.Rows = max(m.progress.Rows, 0) + rows
	}
	if m.watch.Func == nil || m.over {
		return
	}
	if m.watch.Bytes > 0 {
		if m.progress.Bytes-m.toldAt >= m.watch.Bytes {
			m.tell(m.watch.Now())
		}
		return
	}
	if now := m.watch.Now(); now.Sub(m.told) >= m.watch.Interval {
		m.tell(now)
	}
}

func (m *meter) tell(now time.Time) {
	m.told, m.toldAt = now, m.progress.Bytes
	p := m.progress
	if m.watch.Server != nil && m.progress.ServerErr == nil {
		m.ask(&p)
	}
	p.Elapsed = now.Sub(m.begun)
	m.watch.Func(p)
}

// askSQL finds the COPY by its text, which the server may have cut, or by the
// table and the kind that the driver copies with. Two that look the same are
// none.
const askSQL = `
select p.tuples_processed, p.tuples_excluded, p.bytes_processed
from pg_stat_progress_copy p join pg_stat_activity a using (pid)
where p.datname = current_database() and p.type = 'PIPE' and case
	when $1 <> '' then a.query <> '' and starts_with($1, a.query)
	else p.command = 'COPY FROM' and p.relid = to_regclass($2)::oid end`

// ask adds what the server knows.
func (m *meter) ask(p *Progress) {
	ctx, cancel := context.WithTimeout(m.ctx, serverPatience)
	defer cancel()
	rows, err := m.watch.Server.Query(ctx, askSQL, m.sql, m.table)
	if err == nil {
		var seen Progress
		var n int
		_, err = pgx.ForEachRow(rows, []any{&seen.Rows, &seen.Excluded, &seen.Bytes}, func() error { n++; return nil })
		if err == nil && n == 1 {
			p.Excluded = seen.Excluded
			if !m.countRows {
				p.Rows = seen.Rows
			}
			if p.Bytes == 0 {
				p.Bytes = seen.Bytes
			}
		}
	}
	m.progress.ServerErr, p.ServerErr = err, err
}

func (m *meter) bytesSoFar() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.progress.Bytes
}

// stop keeps the watcher from being told anything more.
func (m *meter) stop() {
	m.mu.Lock()
	m.over = true
	m.mu.Unlock()
}

// finish tells the end.
func (m *meter) finish(rows int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over = true; m.watch.Func == nil {
		return
	}
	p := m.progress
	p.Rows, p.Done, p.Elapsed = rows, true, m.watch.Now().Sub(m.begun)
	m.watch.Func(p)
}

// meteredReader counts what is read.
type meteredReader struct {
	gate
	r io.Reader
	m *meter
}

func newMeteredReader(r io.Reader, m *meter) *meteredReader {
	return &meteredReader{r: r, m: m, gate: gate{free: func() {
		if plain, ok := r.(*lazyReader); ok {
			_ = plain.Close() // it was read to its end, or nobody wants the rest
		}
	}}}
}

// Read reads, and counts.
func (r *meteredReader) Read(b []byte) (int, error) {
	if !r.enter() {
		return 0, io.EOF
	}
	defer r.leave()
	n, err := r.r.Read(b)
	if n > 0 {
		r.m.add(0, int64(n))
	}
	return n, err
}

// meteredWriter counts what is written, a row each time.
type meteredWriter struct {
	w    io.Writer
	m    *meter
	head int
}

// Write writes, and counts.
func (w *meteredWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	rows := int64(1)
	if w.head > 0 {
		w.head--
		rows = 0
	}
	w.m.add(rows, int64(n))
	return n, err
}
