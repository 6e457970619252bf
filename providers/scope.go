package providers

import "context"

// ScopeFunc says what everything done with a context is confined to, or why
// nothing may be done with it: then nothing is sent. It is asked at the
// beginning of each operation, so it should be quick. The settings that it
// returns belong to the caller, who does not change them.
//
// A transaction, and a connection taken out of the pool, stay in the scope that
// they began in: a statement with a context of another scope is refused there.
type ScopeFunc func(ctx context.Context) (Scope, error)

// Scope is what an operation is confined to. The zero Scope does not confine.
type Scope struct {
	// Settings hold for the operation and for nothing else. They are made in the
	// flush of the statement, or of the BEGIN.
	Settings []Setting
	// Gate bounds what runs at a time. Optional.
	Gate Gate
}

// Gate bounds how many operations of one kind hold a connection at a time.
type Gate interface {
	// Enter waits for admission. Its error says why there was none.
	Enter(ctx context.Context) error
	// Leave ends what Enter admitted.
	Leave()
}
