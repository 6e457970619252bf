package httptenant

import (
	"errors"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The reasons why a request does not reach the handler. A [Func] has its own.
var (
	// ErrNoTenant means that the request names no tenant.
	ErrNoTenant = errors.New("pgkeel: httptenant: the request names no tenant; the handler was not called")
	// ErrMalformed means that what the request names cannot be a tenant. The
	// value is not in the text.
	ErrMalformed = errors.New("pgkeel: httptenant: what the request names is no tenant; the handler was not called")
)

// Source finds the tenant of a request. An empty id means that the request names
// none, an error that it is to be refused.
type Source func(r *http.Request) (id string, err error)

// Header is the tenant in a header. A request that has it twice is refused, also
// when a proxy has joined the two with a comma.
func Header(name string) Source {
	if name == "" {
		panic("pgkeel: httptenant: Header needs a name")
	}
	return func(r *http.Request) (string, error) {
		values := r.Header.Values(name)
		if len(values) == 0 {
			return "", nil
		}
		if len(values) > 1 || strings.Contains(values[0], ",") {
			return "", ErrMalformed
		}
		return values[0], nil
	}
}

// PathValue is the tenant in a wildcard of the pattern that the request matched,
// such as {tenant}. The [http.ServeMux] must stand in front of the middleware.
func PathValue(name string) Source {
	if name == "" {
		panic("pgkeel: httptenant: PathValue needs a name")
	}
	return func(r *http.Request) (string, error) { return r.PathValue(name), nil }
}

// Func is a tenant that a function finds, in the claims of a token for one. Its
// error refuses the request.
func Func(find func(r *http.Request) (id string, err error)) Source {
	if find == nil {
		panic("pgkeel: httptenant: Func needs a function")
	}
	return find
}

// First is the tenant of the first source that has one. One that refuses the
// request ends the search.
func First(sources ...Source) Source {
	return func(r *http.Request) (string, error) {
		for _, source := range sources {
			if id, err := source(r); id != "" || err != nil {
				return id, err
			}
		}
		return "", nil
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
