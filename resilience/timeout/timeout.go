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
				limit := strconv.FormatInt(providers.Milliseconds(time.Until(deadline)), 10)
				call.Scope = append(call.Scope, providers.Setting{Name: setting, Value: limit})
			}
			return next(ctx, call)
		}
	}}
}
