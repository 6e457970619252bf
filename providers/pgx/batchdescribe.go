package pgx

import (
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
	"github.com/pgkeel/pgkeel/providers/pgx/decode"
)

// described is a statement as the server described it.
type described struct {
	sql string
	sd  *pgconn.StatementDescription
	// formats are those of its result's columns.
	formats []int16
	// columns are how an exchange reads it.
	columns *decode.Columns
	effects sqltext.Effects
	// block and commits are those of the item, listed says that it is about to be
	// described.
	block, commits, listed bool
	// err is why it could not be described ahead of its turn.
	err error
	// dropped says that it does not fit the schema any more.
	dropped bool
}

// descriptions are the statements that batches have prepared, or described, on
// one connection. The driver's own are out of reach for a pipeline.
type descriptions struct {
	named    bool
	capacity int
	bySQL    map[string]*described
	// line has them in the order in which they came.
	line []*described
	made int
	// stale are the names of those that the server may forget.
	stale []string
}

// descriptionsOf are those of a connection, or nil where nothing is described.
func descriptionsOf(sn *session) *descriptions {
	if sn.known != nil {
		return sn.known
	}
	d := &descriptions{bySQL: map[string]*described{}}
	switch sn.config.DefaultQueryExecMode {
	case pgx.QueryExecModeExec:
		return nil
	case pgx.QueryExecModeDescribeExec:
		return d // for one batch only
	case pgx.QueryExecModeCacheDescribe:
		d.capacity = sn.config.DescriptionCacheCapacity
	default:
		d.named, d.capacity = true, sn.config.StatementCacheCapacity
	}
	sn.known = d
	return d
}

// forgetDescriptions drops them all: somebody deallocated what was prepared.
func forgetDescriptions(conn *pgx.Conn) {
	if s := sessionOf(conn); s != nil {
		s.known, s.scoped.settings, s.scoped.gate, s.scoped.position = nil, nil, nil, nil
	}
}

// of finds the description of a statement, or makes one that is to be filled.
func (d *descriptions) of(sql string, p *Pool) (*described, error) {
	if known := d.bySQL[sql]; known != nil {
		return known, nil
	}
	if err := refusal(sql); err != nil {
		return nil, err
	}
	one := &described{sql: sql, effects: p.classifier.classify(sql), block: needsBlock(sql), commits: mayCommit(sql)}
	d.bySQL[sql] = one
	return one, nil
}

// undescribed are descriptions that are to be filled, each once.
type undescribed []*described

func (u *undescribed) add(d *described) {
	if d.sd == nil && !d.listed {
		d.listed = true
		*u = append(*u, d)
	}
}

// listed ends the list.
func (u undescribed) listed() {
	for _, d := range u {
		d.listed = false
	}
}

// missing are the descriptions of a chunk that are to be filled.
func missing(chunk []*batchItem) (missing undescribed) {
	for _, it := range chunk {
		if it.described != nil {
			missing.add(it.described)
		}
	}
	missing.listed()
	return missing
}

// describeAgain describes statements that had to be forgotten.
func (s *stream) describeAgain(again []*batchItem) {
	for _, it := range again {
		it.described, _ = s.known.of(it.sql, s.pool) // it was not refused before
	}
	s.describe(again)
}

// drop forgets one.
func (d *descriptions) drop(one *described) {
	one.dropped = true
	if d.bySQL[one.sql] != one {
		return
	}
	delete(d.bySQL, one.sql)
	if d.named && one.sd != nil {
		d.stale = append(d.stale, one.sd.Name)
	}
}

// evict forgets the oldest, but for those that a chunk needs, as far as there
// are too many. Some in the line were dropped already.
func (d *descriptions) evict(chunk []*described) {
	if len(d.bySQL) <= d.capacity {
		return
	}
	needed := map[*described]bool{}
	for _, one := range chunk {
		needed[one] = true
	}
	kept := d.line[:0]
	for _, one := range d.line {
		switch {
		case d.bySQL[one.sql] != one:
		case needed[one] || len(d.bySQL) <= d.capacity:
			kept = append(kept, one)
		default:
			d.drop(one)
		}
	}
	clear(d.line[len(kept):])
	d.line = kept
}

func (d *descriptions) name() string {
	if !d.named {
		return ""
	}
	d.made++
	return "pgkeel_batch_" + strconv.Itoa(d.made)
}

// describe has the server describe the statements of a chunk that are not known
// yet, all of them in one flush. One that cannot be described does not harm the
// others: it is tried again when it is its turn, since a statement before it may
// make what it needs.
func (s *stream) describe(chunk []*batchItem) {
	missing := missing(chunk)
	if len(missing) == 0 {
		return
	}
	if g := s.group; g != nil && g.sent && !g.failed {
		s.sync(g, false)
	}
	s.drain()
	if s.lost || s.group != nil && s.group.failed { // it is not going to be sent
		for _, d := range missing {
			s.known.drop(d)
		}
		return
	}
	needed := make([]*described, len(chunk))
	for i, it := range chunk {
		needed[i] = it.described
	}
	s.known.evict(needed)
	if err := s.describeAll(missing); err != nil {
		s.lose(err, nil)
	}
}

// describer has statements described on a pipeline, between two results.
type describer struct {
	conn  *pgx.Conn
	pipe  *pgconn.Pipeline
	known *descriptions
}

// describeAll describes statements. Its error is that of the connection.
func (s *describer) describeAll(missing []*described) error {
	guarded := s.conn.PgConn().TxStatus() != 'I'
	guard := func(verb string) {
		if guarded {
			s.pipe.SendQueryParams(verb+" "+prepareSavepoint, nil, nil, nil, nil)
		}
	}
	stale := s.known.stale
	s.known.stale = nil
	for _, name := range stale {
		s.pipe.SendDeallocate(name)
	}
	guard("savepoint")
	names := make([]string, len(missing))
	for i, d := range missing {
		names[i] = s.known.name()
		s.pipe.SendPrepare(names[i], d.sql, nil)
		s.pipe.SendPipelineSync() // an error skips no more than itself
		guard("rollback to savepoint")
	}
	guard("release savepoint")
	s.pipe.SendPipelineSync()
	if err := s.pipe.Flush(); err != nil {
		return err
	}
	return s.readDescriptions(len(stale), missing, names, guarded)
}

func (s *describer) readDescriptions(stale int, missing []*described, names []string, guarded bool) error {
	expect := stale
	if guarded {
		expect++
	}
	for i, d := range missing {
		if err := s.skipResults(expect); err != nil {
			return err
		}
		if err := s.readDescription(d, names[i]); err != nil {
			return err
		}
		expect = 1 // the Sync
		if guarded {
			expect = 2 // and the way back
		}
	}
	if guarded {
		expect++ // the savepoint's release
	}
	return s.skipResults(expect + 1)
}

// skipResults reads results of which only an error is of interest.
func (s *describer) skipResults(n int) error {
	for range n {
		answer, err := s.pipe.GetResults()
		if rr, ok := answer.(*pgconn.ResultReader); ok && err == nil {
			_, err = rr.Close()
		}
		switch {
		case err != nil:
			return err
		case answer == nil:
			return errProtocol
		}
	}
	return nil
}

// readDescription reads one. An ordinary error of the server's stays with it.
func (s *describer) readDescription(d *described, name string) error {
	answer, err := s.pipe.GetResults()
	if err != nil {
		if !isAlive(err) {
			return err
		}
		d.err = err
		return nil
	}
	sd, ok := answer.(*pgconn.StatementDescription)
	if !ok {
		return errProtocol
	}
	sd.Name, sd.SQL = name, d.sql
	d.fill(sd)
	d.formats = make([]int16, len(sd.Fields))
	for i, f := range sd.Fields {
		d.formats[i] = s.conn.TypeMap().FormatCodeForOID(f.DataTypeOID)
	}
	s.known.line = append(s.known.line, d)
	return nil
}

// fill notes how the server described the statement. What a cursor or a statement of
// the session yields is another thing each time, which the server does not look after:
// their columns are described when they run.
func (d *described) fill(sd *pgconn.StatementDescription) {
	switch first, _ := sqltext.First(d.sql); first {
	case "fetch", "execute":
		sd.Fields = nil
	}
	d.sd, d.err = sd, nil
}

// describeNow describes a statement at its turn, when all before it have run. An
// error is the statement's.
func (s *stream) describeNow(it *batchItem) {
	d := it.described
	s.drain()
	if s.lost || it.group.failed {
		return
	}
	name := s.known.name()
	s.pipe.SendPrepare(name, d.sql, nil)
	alone := it.group.frame == frameSync
	if alone {
		s.pipe.SendPipelineSync()
	} else {
		s.pipe.SendFlushRequest()
	}
	err := s.pipe.Flush()
	if err == nil {
		err = s.readDescription(d, name)
	}
	if err == nil && alone {
		err = s.skipResults(1)
	}
	switch {
	case err != nil:
		s.lose(err, nil)
	case d.err != nil:
		s.skipping = !alone
		s.known.drop(d)
		_, _, failure := s.deliver(flight{item: it, group: it.group}, nil, d.err)
		s.failDescribed(it, failure)
	default:
		d.dropped = false
		s.known.bySQL[d.sql] = d
	}
}

func (s *stream) failDescribed(it *batchItem, failure error) {
	mapped := s.mapped(it.described.err)
	if failure != nil {
		mapped = failure
	}
	s.fail(it, providers.BatchStatement, providers.OutcomeRolledBack, mapped)
}

// forget drops a statement's description if its error can be due to what was
// described: the schema has changed since.
func (s *stream) forget(it *batchItem, err error) {
	if s.known == nil || it.described == nil {
		return
	}
	if mayBeStale(providers.NewPGError(err)) {
		s.known.drop(it.described)
	}
}

// classNoStatement is the class of the SQLSTATE of a statement that the server has
// forgotten.
const classNoStatement = "26"

// mayBeStale reports an error that can be due to what was described: the server
// looks at the statement again when the schema has changed, with the types that its
// arguments had.
func mayBeStale(pg *providers.PGError) bool {
	if pg == nil || len(pg.Code) < 2 {
		return false
	}
	switch pg.Code[:2] {
	case "0A", classNoStatement, "42", "XX":
		return true
	}
	return false
}
