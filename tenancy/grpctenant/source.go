package grpctenant

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The reasons why a call is refused. A [Func] has its own.
var (
	// ErrNoTenant means that the call names no tenant.
	ErrNoTenant = status.Error(codes.Unauthenticated, "the call names no tenant; nothing was done")
	// ErrMalformed means that what the call names cannot be a tenant. The value is
	// not in the text.
	ErrMalformed = status.Error(codes.InvalidArgument, "what the call names is no tenant; nothing was done")
)

// Source finds the tenant of a call. An empty id means that the call names none, an
// error that it is to be refused.
type Source func(ctx context.Context) (id string, err error)

// Metadata is the tenant in the call's metadata. A call that has the key twice is
// refused.
func Metadata(key string) Source {
	mustHaveKey(key)
	return func(ctx context.Context) (string, error) {
		switch values := metadata.ValueFromIncomingContext(ctx, key); len(values) {
		case 0:
			return "", nil
		case 1:
			return values[0], nil
		default:
			return "", ErrMalformed
		}
	}
}

// Func is a tenant that a function finds, in the claims of a token for one. Its
// error refuses the call: with its own code if it is a status, else with
// Unauthenticated, and the client does not see its text.
func Func(find func(ctx context.Context) (id string, err error)) Source {
	if find == nil {
		panic("pgkeel: grpctenant: Func needs a function")
	}
	return find
}

// First is the tenant of the first source that has one. One that refuses the call
// ends the search.
func First(sources ...Source) Source {
	return func(ctx context.Context) (string, error) {
		for _, source := range sources {
			if id, err := source(ctx); id != "" || err != nil {
				return id, err
			}
		}
		return "", nil
	}
}

func mustHaveKey(key string) {
	if key == "" {
		panic("pgkeel: grpctenant: metadata need a key")
	}
}

// maxID is the most bytes of a tenant's id, as in package tenancy.
const maxID = 255

// isID reports whether a text can be a tenant's id: no white space, nothing
// invisible, nothing that is not UTF-8.
func isID(id string) bool {
	odd := func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }
	return id != "" && len(id) <= maxID && utf8.ValidString(id) && !strings.ContainsFunc(id, odd)
}
