// Package timeout sends what is left of a context's deadline to the server.
//
// A deadline in the client does not stop the server: a statement whose caller
// has gone goes on, and holds its locks. With this layer each statement
// carries its remaining time as statement_timeout, in the same flush, so that
// the server ends it at the same moment by itself, even when the client or the
// network is gone.
package timeout

import (
	"context"
	"math"
	"strconv"
	"time"

	"github.com/pgkeel/pgkeel/chain"
	"github.com/pgkeel/pgkeel/providers"
)

// setting is PostgreSQL's parameter, in milliseconds.
const setting = "statement_timeout"

// Layer returns the layer. Calls whose context has no deadline pass untouched.
func Layer() chain.Layer {
	return chain.Layer{Order: chain.Timeout, Wrap: func(next chain.Handler) chain.Handler {
		return func(ctx context.Context, call *providers.Call) error {
			if deadline, ok := ctx.Deadline(); ok {
				call.Scope = append(call.Scope, providers.Setting{Name: setting, Value: millis(time.Until(deadline))})
			}
			return next(ctx, call)
		}
	}}
}

// millis rounds up to PostgreSQL's unit, since 0 would mean no limit, and down
// to the most it takes. It divides first: what is left can be as long as a
// duration gets.
func millis(left time.Duration) string {
	ms := int64(left / time.Millisecond)
	if left%time.Millisecond > 0 {
		ms++
	}
	return strconv.FormatInt(min(max(ms, 1), math.MaxInt32), 10)
}
