package pipeline

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/pgx/decode"
)

// kind is what a request asks for.
type kind uint8

const (
	kindExec kind = iota
	// kindDescribe prepares a statement that nobody knows yet.
	kindDescribe
	// kindPing makes a round trip and nothing else.
	kindPing
)

// verdict is what became of a request.
type verdict uint8

const (
	// answered has a result or an error of the server.
	answered verdict = iota
	// skipped never ran, since something ahead of it in its segment failed, or
	// its plan was stale. It can run again.
	skipped
	// moved never ran, or only read: it can run elsewhere.
	moved
	// lost was sent, and the connection died before its answer.
	lost
)

// request is one statement on its way. Its caller owns it, except between
// submit and its end: then the connection does.
type request struct {
	kind      kind
	statement *statement
	// noRows says that nobody looks at the rows.
	noRows bool
	// solo says that it must not share a segment, as it did so in vain.
	solo bool
	// settings are names and values in turns, limit the statement_timeout in
	// milliseconds; 0 for the session's own. ownLimit says that it is one of the
	// settings.
	settings []string
	limit    int64
	ownLimit bool
	bind     []byte
	size     int
	// pid is the server's process that it goes to.
	pid uint32

	// done, abandoned: under the connection's lock. An abandoned request has
	// nobody waiting; the connection recycles it.
	done, abandoned bool
	// hasty says that its caller's deadline is near.
	hasty bool
	// patient says that its caller does not mind the end of its context while it waits,
	// lasts that the watch has seen it wait. Under the lock as well.
	patient, lasts bool
	// wake is told of the end, and before that of the end of patience.
	wake chan struct{}

	result
}

// result is what a request comes to.
type result struct {
	verdict verdict
	err     error
	tag     pgconn.CommandTag
	fields  []pgconn.FieldDescription
	// rows are the bodies of the rows, each behind its length.
	rows     []byte
	count    int
	overflow bool
	// unreplicated says that its commit stopped waiting for its synchronous standby.
	unreplicated bool
}

// alone reports whether a request must have a segment for itself: two tenants
// or roles never meet in one.
func (r *request) alone() bool { return r.solo || len(r.settings) > 0 || r.kind != kindExec }

var requests = sync.Pool{New: func() any { return &request{wake: make(chan struct{}, 2)} }}

// keepBuffer is the largest buffer that is kept for the next request.
const keepBuffer = 64 << 10

// recycle gives a request back that nobody else knows any more.
func (r *request) recycle() {
	rows, bind := r.rows[:0], r.bind[:0]
	if cap(rows) > keepBuffer {
		rows = nil
	}
	if cap(bind) > keepBuffer {
		bind = nil
	}
	*r = request{wake: r.wake, bind: bind, result: result{rows: rows}}
	requests.Put(r)
}

// wants reports whether the result still has room for a row.
func (r *request) wants(size, limit int) bool {
	if r.noRows {
		return false
	}
	if r.overflow || len(r.rows)+size > limit {
		r.overflow = true
		return false
	}
	return true
}

// addRow keeps a row.
func (r *request) addRow(body []byte) {
	r.rows = binary.BigEndian.AppendUint32(r.rows, uint32(len(body))) //nolint:gosec // a message's length is 32 bits
	r.rows = append(r.rows, body...)
	r.count++
}

// codec encodes arguments and decodes results. A type map is for one goroutine
// at a time, so each call in progress has a codec of its own.
type codec struct {
	// home is where it is kept while nobody uses it.
	home *sync.Pool
	// types are a copy of source.
	source, types *pgtype.Map

	builder pgx.ExtendedQueryBuilder
	// columns are those of the statement whose rows were read last, with how; values
	// those of the row at hand.
	statement *statement
	columns   decode.Columns
	values    [][]byte
}

func (c *codec) release() { c.home.Put(c) }

// read readies the codec for the rows of a request.
func (c *codec) read(r *request) {
	c.values = c.values[:0] // those of somebody else's row
	switch {
	case r.fields != nil: // as its connection described them: the table may have changed since
		c.statement, c.columns = nil, decode.Columns{Types: c.types, Fields: r.fields}
	case c.statement != r.statement:
		c.statement, c.columns = r.statement, decode.Columns{Types: c.types, Fields: r.statement.fields}
	}
}

// encode appends the Bind message of a statement.
func (c *codec) encode(dst []byte, s *statement, args []any) ([]byte, error) {
	described := pgconn.StatementDescription{ParamOIDs: s.paramOIDs}
	if err := c.builder.Build(c.types, &described, args); err != nil {
		return dst, err
	}
	bind := pgproto3.Bind{
		PreparedStatement:    s.name,
		ParameterFormatCodes: c.builder.ParamFormats,
		Parameters:           c.builder.ParamValues,
		ResultFormatCodes:    s.formats,
	}
	return bind.Encode(dst)
}

// appendTextBind appends the Bind message of a statement whose arguments are
// texts.
func appendTextBind(dst []byte, name string, args []string) []byte {
	bind := pgproto3.Bind{PreparedStatement: name, Parameters: make([][]byte, len(args))}
	for i, a := range args {
		bind.Parameters[i] = []byte(a)
	}
	dst, _ = bind.Encode(dst)
	return dst
}

// within is settings of which none gives more time than is left of a deadline. One
// that says the same, and nothing else does, is left out: the session's limit serves.
func within(settings []string, left time.Duration) []string {
	for i := 0; i < len(settings); i += 2 {
		if settings[i] != statementTimeout {
			continue
		}
		most := providers.Milliseconds(left)
		ms, err := strconv.ParseInt(settings[i+1], 10, 64)
		if err != nil || ms > 0 && ms < most {
			continue
		}
		if len(settings) == 2 {
			return nil
		}
		settings[i+1] = strconv.FormatInt(most, 10)
	}
	return settings
}

// limitFor is the statement_timeout for what is left of a deadline, in
// milliseconds. Rounded up by at most an eighth, it changes less often.
func limitFor(left time.Duration) int64 {
	ms := providers.Milliseconds(left)
	step := int64(1) << max(0, bits.Len64(uint64(ms))-4) //nolint:gosec // positive
	return min((ms+step-1)&^(step-1), math.MaxInt32)
}
