package stdsql

import (
	"sync/atomic"

	"github.com/pgkeel/pgkeel/providers"
)

// use tells whether a statement of a connection or a transaction is under way,
// from its start until its rows are closed.
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
