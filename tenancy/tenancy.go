// Package tenancy keeps the tenants of a database apart, each seeing and changing
// its own data only.
//
// There are three ways, which docs/multi-tenancy.md compares: row-level security
// ([RLS]), a schema per tenant ([Schema]) and a database per tenant ([Database]).
// One of them is given to pgkeel.WithTenancy. From then on the tenant in the
// context ([providers.WithTenantID]) decides what a statement can reach, on
// every path of the handle. Without a tenant nothing is sent. [Bypass] is the way
// around it.
package tenancy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgkeel/pgkeel/providers"
)

// Opener opens a pool for a configuration.
type Opener func(ctx context.Context, cfg providers.Config) (providers.Pool, error)

// Mode is a way to keep tenants apart.
type Mode interface {
	// Open opens the pool that does so, and refuses a database in which tenants
	// could see each other. It makes the pools underneath with open.
	Open(ctx context.Context, cfg providers.Config, open Opener) (providers.Pool, error)
}

// ErrNoTenant means that a context has no tenant. Nothing was sent.
var ErrNoTenant error = &notSentError{errors.New("pgkeel: tenancy: the context has no tenant; put it there with " +
	"WithTenantID, or use tenancy.Bypass for administration; nothing was sent")}

// maxID is the most bytes of a tenant's id.
const maxID = 255

// notSentError is an error of something that never began.
type notSentError struct{ error }

func (e *notSentError) Unwrap() error              { return e.error }
func (e *notSentError) Outcome() providers.Outcome { return providers.OutcomeNotSent }

func refusef(format string, args ...any) error {
	return &notSentError{fmt.Errorf("pgkeel: tenancy: "+format+"; nothing was sent", args...)}
}

// tenantOf returns the id of the context's tenant.
func tenantOf(ctx context.Context) (string, error) {
	id, ok := providers.GetTenantID(ctx)
	switch {
	case !ok:
		return "", ErrNoTenant
	case len(id) > maxID:
		return "", refusef("the tenant's id has %d bytes, at most %d are allowed", len(id), maxID)
	case strings.ContainsRune(id, 0):
		return "", refusef("the tenant's id contains a NUL byte")
	default:
		return id, nil
	}
}

type bypassKey struct{}

// Bypass returns a context that belongs to no tenant, for administration: what
// is done with it is not confined. The reason is kept in it for those who audit,
// see [BypassReason]; an empty one makes every operation fail.
func Bypass(ctx context.Context, reason string) context.Context {
	return context.WithValue(ctx, bypassKey{}, reason)
}

// BypassReason returns the reason of the context's [Bypass], and whether it has
// one. Hooks use it to audit: the contexts that they get carry it.
func BypassReason(ctx context.Context) (reason string, ok bool) {
	reason, ok = ctx.Value(bypassKey{}).(string)
	return reason, ok
}

// bypassed reports whether the context belongs to no tenant on purpose.
func bypassed(ctx context.Context) (bool, error) {
	reason, ok := BypassReason(ctx)
	if ok && strings.TrimSpace(reason) == "" {
		return false, refusef("Bypass needs a reason")
	}
	return ok, nil
}
