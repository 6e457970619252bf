package pipeline

import (
	"context"
	"errors"
)

// describe has a connection prepare a statement and learns what it takes and
// returns. Without an error it may return nil: then nothing is known.
func (e *Engine) describe(ctx context.Context, c *conn, sql string) (*statement, error) {
	r := requests.Get().(*request)
	s := &statement{sql: sql, name: e.statements.name()}
	r.kind, r.statement, r.size = kindDescribe, s, len(sql)
	e.limit(ctx, c, r, nil)
	if r.size > e.opts.MaxRequestBytes {
		r.recycle()
		return nil, ErrElsewhere
	}
	r, err := e.send(ctx, c, r)
	var notSent *NotSentError
	switch {
	case errors.Is(err, ErrElsewhere), errors.As(err, &notSent):
		return nil, err
	case err != nil: // nothing was executed
		return nil, &NotSentError{err}
	case r.verdict != answered:
		r.recycle()
		return nil, nil
	case r.err != nil:
		// A statement that cannot be prepared is the other path's to explain.
		r.recycle()
		return nil, ErrElsewhere
	}
	s.fields = r.fields
	r.recycle()
	e.chooseFormats(s)
	old := e.statements.get(sql)
	c.mu.Lock()
	if old != nil && old.isLike(s) {
		c.forget = append(c.forget, s.name)
		c.mu.Unlock()
		return old, nil
	}
	c.prepared[s] = struct{}{}
	c.mu.Unlock()
	for _, old := range e.statements.put(s) {
		e.forget(old)
	}
	return s, nil
}

// chooseFormats asks for each column in the format that the driver would take.
func (e *Engine) chooseFormats(s *statement) {
	if len(s.fields) == 0 {
		return
	}
	codec := e.codec()
	defer codec.release()
	uniform := true
	s.formats = make([]int16, len(s.fields))
	for i := range s.fields {
		s.formats[i] = codec.types.FormatCodeForOID(s.fields[i].DataTypeOID)
		s.fields[i].Format = s.formats[i]
		uniform = uniform && s.formats[i] == s.formats[0]
	}
	if uniform {
		// Fits any number of columns, should the table get one more.
		s.formats = s.formats[:1]
	}
}

// replace forgets a statement that no longer fits, everywhere.
func (e *Engine) replace(s *statement) {
	if e.statements.drop(s) {
		e.forget(s)
	}
}

// forget has every connection forget a statement.
func (e *Engine) forget(s *statement) {
	s.gone.Store(true)
	for c := range e.conns {
		c.mu.Lock()
		if _, known := c.prepared[s]; known {
			c.forgets(s)
		}
		c.mu.Unlock()
	}
}
