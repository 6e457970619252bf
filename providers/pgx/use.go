package pgx

import (
	"sync/atomic"

	"github.com/pgkeel/pgkeel/providers"
)

// use tells whether a statement of a connection or a transaction is under way,
// from its start until its rows are closed. Two at once are refused before
// they can meet in the driver, which is not made for that.
type use struct {
	busy atomic.Bool
	// after runs when a use ends, while the next one may begin. Only a use in
	// progress changes it. Optional.
	after func()
}

func (u *use) enter() error {
	if !u.busy.CompareAndSwap(false, true) {
		return providers.ErrConcurrentUse
	}
	return nil
}

func (u *use) leave() {
	after := u.after
	u.busy.Store(false)
	if after != nil {
		after()
	}
}

// rowSource holds the next result objects of a connection or a transaction, so
// that most statements need no allocation for theirs.
type rowSource struct {
	first [2]rows
	used  int
	more  []rows
}

func (s *rowSource) next() *rows {
	if s.used < len(s.first) {
		s.used++
		return &s.first[s.used-1]
	}
	if len(s.more) == 0 {
		s.more = make([]rows, slabSize)
	}
	r := &s.more[0]
	s.more = s.more[1:]
	return r
}
