package providers

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ScopeFunc says what everything done with a context is confined to, or why
// nothing may be done with it: then nothing is sent. It is asked at the
// beginning of each operation, so it should be quick. The settings that it
// returns belong to the caller, who does not change them.
//
// A transaction, and a connection taken out of the pool, stay in the scope that
// they began in: a statement with a context of another scope is refused there with
// [ErrOtherScope]. A statement that would end the transaction of its settings is
// refused with [ErrEndsScope].
type ScopeFunc func(ctx context.Context) (Scope, error)

// Scope is what an operation is confined to. The zero Scope does not confine.
type Scope struct {
	// Settings hold for the operation and for nothing else. They are made in the
	// flush of the statement, or of the BEGIN.
	Settings []Setting
	// Gate bounds what runs at a time. Optional.
	Gate Gate
}

// WithinScope puts a call's own settings behind those of its scope. Of two limits
// of a statement's time the shorter one counts.
func WithinScope(scope, settings []Setting) []Setting {
	if len(settings) == 0 {
		return slices.Clip(scope)
	}
	all := slices.Concat(scope, settings)
	for i := range all[len(scope):] {
		if own := &all[len(scope)+i]; own.Name == statementTimeout {
			own.Value = shorter(scope, own.Value)
		}
	}
	return all
}

// StaleSettings names the settings that an earlier call left in force and that are not
// in scope, so that they are to end.
func StaleSettings(applied, scope []Setting) []string {
	var stale []string
	for _, a := range applied {
		// PostgreSQL does not tell upper from lower case here.
		same := func(s Setting) bool { return strings.EqualFold(s.Name, a.Name) }
		if !slices.ContainsFunc(scope, same) && !slices.Contains(stale, a.Name) {
			stale = append(stale, a.Name)
		}
	}
	return stale
}

const statementTimeout = "statement_timeout"

// Milliseconds is a limit of time in the unit of PostgreSQL's settings: rounded up
// to 1 at least, as 0 would be no limit, and at most what such a setting takes.
func Milliseconds(limit time.Duration) int64 {
	ms := int64(limit / time.Millisecond) // divided first: a limit can be as long as a duration gets
	if limit%time.Millisecond > 0 {
		ms++
	}
	return min(max(ms, 1), math.MaxInt32)
}

// shorter is a statement's limit in milliseconds, or that of its scope if that is
// shorter.
func shorter(scope []Setting, limit string) string {
	for _, s := range scope {
		if s.Name != statementTimeout {
			continue
		}
		most, err := strconv.ParseInt(s.Value, 10, 64)
		mine, mineErr := strconv.ParseInt(limit, 10, 64)
		if err == nil && most > 0 && (mineErr != nil || mine <= 0 || most < mine) {
			return s.Value
		}
	}
	return limit
}

// Gate bounds how many operations of one kind hold a connection at a time.
type Gate interface {
	// Enter waits for admission. Its error says why there was none.
	Enter(ctx context.Context) error
	// Leave ends what Enter admitted.
	Leave()
}
