package pipeline

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// statement is what all connections know of a prepared statement. It does not
// change; one that no longer fits the schema is replaced by a new one.
type statement struct {
	sql, name string
	paramOIDs []uint32
	// fields have the formats in which results are asked for.
	fields  []pgconn.FieldDescription
	formats []int16
	// service is the moving average of the server's time for it, in
	// nanoseconds, a round trip included.
	service atomic.Int64
	// usual is about the median of the same without a round trip.
	usual atomic.Int64
	// large says that its result once did not fit into the buffer.
	large atomic.Bool
	// gone says that it was driven out, or no longer fits, doubted that it may no
	// longer fit.
	gone, doubted atomic.Bool
	// used is how many statements there had been when it was last looked up, for the
	// eviction of the oldest.
	used atomic.Int64
}

// formatOf is the format in which a column arrives: one format stands for all
// columns, none for text.
func (s *statement) formatOf(column int) int16 {
	switch {
	case len(s.formats) == 1:
		return s.formats[0]
	case column < len(s.formats):
		return s.formats[column]
	default:
		return 0
	}
}

// returns reports whether the statement returns these columns.
func (s *statement) returns(fields []pgconn.FieldDescription) bool {
	return slices.EqualFunc(s.fields, fields, func(a, b pgconn.FieldDescription) bool {
		b.Format = a.Format // that of a description means nothing
		return a == b
	})
}

// isLike reports whether another description of the statement says the same.
func (s *statement) isLike(other *statement) bool {
	return slices.Equal(s.paramOIDs, other.paramOIDs) && slices.Equal(s.fields, other.fields) && slices.Equal(s.formats, other.formats)
}

// isDoubted reports whether the statement is to be described once more, to one of
// those who ask.
func (s *statement) isDoubted() bool {
	return s.doubted.Load() && s.doubted.CompareAndSwap(true, false)
}

// averageOver is the weight of the moving averages: each value counts for an
// eighth.
const averageOver = 8

// observe adds a service time to the average.
func observe(average *atomic.Int64, d time.Duration) {
	old := average.Load()
	if old == 0 {
		average.Store(int64(d))
		return
	}
	average.Store(old + (int64(d)-old)/averageOver)
}

// approach moves what is about a median towards a value. A stall of the machine, however
// long, moves it no further than any other value does.
func approach(median *atomic.Int64, d time.Duration) {
	m := median.Load()
	switch {
	case m == 0:
		median.Store(max(int64(d), 1))
	case int64(d) > m:
		median.Store(m + m/averageOver + 1)
	default:
		median.Store(m - m/averageOver)
	}
}

// slowDecay is how the average of a statement that is kept out falls with each
// use, so that it is tried again: after a hundred uses or so.
const slowDecay = 50

// isSlow reports whether a statement takes so long that others should not wait
// behind it. Pipelining gains nothing for such: the server's work outweighs the
// round trip.
func (s *statement) isSlow(limit time.Duration) bool {
	average := s.service.Load()
	if average <= int64(limit) {
		return false
	}
	s.service.Store(average - average/slowDecay)
	return true
}

// statements are those that are prepared, by their text. A lookup takes no lock.
type statements struct {
	bound  int
	byText atomic.Pointer[map[string]*statement]
	// clock counts those that were added: in between, nothing needs to be told apart,
	// and a lookup writes nothing that callers share.
	clock atomic.Int64

	mu     sync.Mutex
	number int
}

// get finds a statement, or nil.
func (c *statements) get(sql string) *statement {
	known := c.byText.Load()
	if known == nil {
		return nil
	}
	s := (*known)[sql]
	if now := c.clock.Load(); s != nil && s.used.Load() != now {
		s.used.Store(now)
	}
	return s
}

// name makes a name that no connection has used.
func (c *statements) name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.number++
	return "pgkeel_" + strconv.Itoa(c.number)
}

// put adds a statement and returns those that it drives out.
func (c *statements) put(s *statement) (evicted []*statement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.clone()
	s.used.Store(c.clock.Add(1))
	if old := next[s.sql]; old != nil {
		evicted = append(evicted, old)
	}
	next[s.sql] = s
	if len(next) > c.bound {
		evicted = append(evicted, evictOldest(next, len(next)/8+1)...)
	}
	c.byText.Store(&next)
	return evicted
}

// evictOldest removes the n that were not used for longest.
func evictOldest(from map[string]*statement, n int) []*statement {
	all := make([]*statement, 0, len(from))
	for _, s := range from {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *statement) int { return int(a.used.Load() - b.used.Load()) })
	for _, s := range all[:n] {
		delete(from, s.sql)
	}
	return all[:n]
}

// drop removes a statement that no longer fits, unless it was replaced already.
func (c *statements) drop(s *statement) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.clone()
	if next[s.sql] != s {
		return false
	}
	delete(next, s.sql)
	c.byText.Store(&next)
	return true
}

func (c *statements) clone() map[string]*statement {
	next := map[string]*statement{}
	if known := c.byText.Load(); known != nil {
		for sql, s := range *known {
			next[sql] = s
		}
	}
	return next
}

// maxSettings is how many settings one statement can carry.
const maxSettings = 8

// setters are the statements that make settings, by the number of settings.
func setters() (all [maxSettings + 1]*statement) {
	for n := 1; n <= maxSettings; n++ {
		var sql strings.Builder
		var oids []uint32
		for i := range n {
			separator := ", "
			if i == 0 {
				separator = "select "
			}
			sql.WriteString(separator + "pg_catalog.set_config($" + strconv.Itoa(2*i+1) + ", $" + strconv.Itoa(2*i+2) + ", true)")
			oids = append(oids, textOID, textOID)
		}
		all[n] = &statement{sql: sql.String(), name: "pgkeel_set_" + strconv.Itoa(n), paramOIDs: oids}
	}
	return all
}

// newLimiter is the statement that sets the session's statement_timeout.
func newLimiter() *statement {
	return &statement{
		sql:  "select pg_catalog.set_config('statement_timeout', $1, false)",
		name: "pgkeel_limit", paramOIDs: []uint32{textOID},
	}
}

// textOID is the type text.
const textOID = 25
