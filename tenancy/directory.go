package tenancy

import (
	"context"
	"errors"
	"fmt"
)

// Directory knows where the database of each tenant is. It is asked from several
// goroutines, and its answers are kept for a while, see [DirectoryTTL].
type Directory interface {
	// Lookup returns the DSN of the tenant's database. Of a tenant that does not
	// exist it returns an error that wraps [ErrUnknownTenant]; any other error
	// means that it cannot tell at the moment.
	Lookup(ctx context.Context, tenant string) (dsn string, err error)
}

// DirectoryFunc is a function that is a [Directory].
type DirectoryFunc func(ctx context.Context, tenant string) (dsn string, err error)

// Lookup calls the function.
func (f DirectoryFunc) Lookup(ctx context.Context, tenant string) (string, error) {
	return f(ctx, tenant)
}

// ErrUnknownTenant means that the directory has no such tenant. Nothing was sent.
var ErrUnknownTenant error = &notSentError{errors.New("pgkeel: tenancy: the directory has no such tenant; nothing was sent")}

func unknownTenant(tenant string) error {
	return &notSentError{fmt.Errorf("%w: %q", ErrUnknownTenant, tenant)}
}
