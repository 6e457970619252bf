package providers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
)

// LSN is a place in a server's write-ahead log.
type LSN uint64

// String is PostgreSQL's own form, such as "0/3000060".
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l>>32), uint64(l&0xffffffff)) }

// ParseLSN reads PostgreSQL's own form.
func ParseLSN(text string) (LSN, error) {
	high, low, _ := strings.Cut(text, "/")
	h, err := strconv.ParseUint(high, 16, 32)
	l, lowErr := strconv.ParseUint(low, 16, 32)
	if err != nil || lowErr != nil {
		return 0, fmt.Errorf("pgkeel: %q is no place in a log; it looks like 0/3000060", text)
	}
	return LSN(h<<32 | l), nil
}

// Position is how far a server was when an operation had ended.
type Position struct {
	// System is the identifier of the database cluster, whose log it is: positions in
	// the logs of two have nothing to do with each other.
	System uint64
	// Standby says that the server was one.
	Standby bool
	// Timeline of the log; 0 on a standby, which does not tell.
	Timeline uint32
	// LSN covers everything that the operation wrote or saw: whoever has replayed
	// up to it sees all of that.
	LSN LSN
	// Replayed is what a standby had replayed for certain. It is at most LSN.
	Replayed LSN
}

// Causality orders an operation behind others, whichever servers they ran on.
type Causality struct {
	// After is what a standby must have replayed. If it has not, the operation
	// fails with [ErrBehind] and nothing of it is run. 0 is no condition, and a
	// primary always meets it.
	After LSN
	// Note is told, before the operation returns its end (its rows are closed, its
	// commit is answered), how far the server was then. After an operation that may
	// have written, and of which that could not be found out, ok is false. It has to
	// be quick, and safe for concurrent use. Optional.
	Note func(p Position, ok bool)
}

// ErrBehind means that a standby has not replayed what the operation was to come
// after. Nothing was run.
var ErrBehind = errors.New("pgkeel: the standby has not replayed what was to be there before; nothing was run")

type causalityKey struct{}

// anyCausality says that some context has one, so that nobody searches one for it
// before.
var anyCausality atomic.Bool

// WithCausality returns a context whose operations are ordered so.
func WithCausality(ctx context.Context, c *Causality) context.Context {
	anyCausality.Store(true)
	return context.WithValue(ctx, causalityKey{}, c)
}

// CausalityOf returns the order that the context asks for, or nil.
func CausalityOf(ctx context.Context) *Causality {
	if !anyCausality.Load() {
		return nil
	}
	c, _ := ctx.Value(causalityKey{}).(*Causality)
	return c
}
