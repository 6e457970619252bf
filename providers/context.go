package providers

import "context"

type contextKey string

// The keys under which the ids of a request travel in its context. Use the
// helpers below rather than the keys.
const (
	// TenantIDKey holds the tenant that a request belongs to.
	TenantIDKey contextKey = "tenant_id"
	// CorrelationIDKey holds the id that ties a request's log lines together.
	CorrelationIDKey contextKey = "correlation_id"
	// UserIDKey holds the user on whose behalf a request runs.
	UserIDKey contextKey = "user_id"
)

// WithTenantID returns a context that carries the tenant's id.
func WithTenantID(ctx context.Context, tenantID string) context.Context {
	return context.WithValue(ctx, TenantIDKey, tenantID)
}

// GetTenantID returns the tenant's id, and whether there is one. An empty id
// counts as none.
func GetTenantID(ctx context.Context) (string, bool) { return getID(ctx, TenantIDKey) }

// WithCorrelationID returns a context that carries a correlation id.
func WithCorrelationID(ctx context.Context, correlationID string) context.Context {
	return context.WithValue(ctx, CorrelationIDKey, correlationID)
}

// GetCorrelationID returns the correlation id, and whether there is one. An
// empty id counts as none.
func GetCorrelationID(ctx context.Context) (string, bool) { return getID(ctx, CorrelationIDKey) }

// WithUserID returns a context that carries the user's id.
func WithUserID(ctx context.Context, userID string) context.Context {
	return context.WithValue(ctx, UserIDKey, userID)
}

// GetUserID returns the user's id, and whether there is one. An empty id
// counts as none.
func GetUserID(ctx context.Context) (string, bool) { return getID(ctx, UserIDKey) }

func getID(ctx context.Context, key contextKey) (string, bool) {
	id, _ := ctx.Value(key).(string)
	return id, id != ""
}

// heldKey is the key under which a call chain notes the connections that it
// holds of one pool.
type heldKey struct{ pool Pool }

// WithHeld notes in the context that the call chain holds one more connection
// of the pool. A pool uses it to tell a wait from a deadlock.
func WithHeld(ctx context.Context, pool Pool) context.Context {
	key := HeldKey(pool) // once, as it takes an allocation
	n, _ := ctx.Value(key).(int)
	return context.WithValue(ctx, key, n+1)
}

// HeldKey is what a context has a value under where its call chain holds connections
// of the pool. It is for a pool that asks so often that a key each time costs too much;
// others use [Held].
func HeldKey(pool Pool) any { return heldKey{pool} }

// WithoutHeld returns a context that holds nothing, for what a call chain starts and
// does not wait for.
func WithoutHeld(ctx context.Context) context.Context { return holdingNothing{ctx} }

type holdingNothing struct {
	context.Context //nolint:containedctx // it is a context
}

func (c holdingNothing) Value(key any) any {
	if _, ok := key.(heldKey); ok {
		return nil
	}
	return c.Context.Value(key)
}

// Held returns how many connections of the pool the call chain holds.
func Held(ctx context.Context, pool Pool) int {
	n, _ := ctx.Value(heldKey{pool}).(int)
	return n
}
