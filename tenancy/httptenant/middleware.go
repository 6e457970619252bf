package httptenant

import (
	"net/http"

	"github.com/pgkeel/pgkeel/providers"
)

// Option changes what [Middleware] does.
type Option func(*middleware)

type middleware struct {
	source   Source
	optional bool
	valid    func(id string) bool
	refuse   func(w http.ResponseWriter, r *http.Request, err error)
}

// Optional lets a request through that names no tenant, without one. It does not
// let through what is malformed.
func Optional() Option { return func(m *middleware) { m.optional = true } }

// Valid refuses a tenant for which isValid returns false, with [ErrMalformed].
// Use it for the form of ids, or for a look into a list of tenants.
func Valid(isValid func(id string) bool) Option {
	return func(m *middleware) { m.valid = isValid }
}

// Status is what a refused request is answered with, 404 for one, so that nobody
// learns which tenants there are. Default: 400.
func Status(code int) Option {
	if code < 400 || code > 599 {
		panic("pgkeel: httptenant: Status needs the status of an error")
	}
	return Refuse(func(w http.ResponseWriter, _ *http.Request, _ error) {
		http.Error(w, http.StatusText(code), code)
	})
}

// Refuse answers refused requests in a way of your own. The error is
// [ErrNoTenant], [ErrMalformed] or that of a [Func]; it is the last word on what a
// client may know.
func Refuse(answer func(w http.ResponseWriter, r *http.Request, err error)) Option {
	return func(m *middleware) { m.refuse = answer }
}

// Middleware puts the tenant that source finds into the context of each request,
// with [providers.WithTenantID], and refuses those without. A tenant is at most 255
// bytes of UTF-8, without white space and control characters.
func Middleware(source Source, options ...Option) func(http.Handler) http.Handler {
	if source == nil {
		panic("pgkeel: httptenant: Middleware needs a source")
	}
	m := &middleware{source: source, valid: func(string) bool { return true }}
	Status(http.StatusBadRequest)(m)
	for _, option := range options {
		option(m)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id, err := m.find(r)
			switch {
			case err != nil:
				m.refuse(w, r, err)
			case id == "":
				next.ServeHTTP(w, r)
			default:
				next.ServeHTTP(w, r.WithContext(providers.WithTenantID(r.Context(), id)))
			}
		})
	}
}

// find returns the request's tenant, or none where that is allowed.
func (m *middleware) find(r *http.Request) (string, error) {
	id, err := m.source(r)
	switch {
	case err != nil:
		return "", err
	case id == "" && m.optional:
		return "", nil
	case id == "":
		return "", ErrNoTenant
	case !isID(id) || !m.valid(id):
		return "", ErrMalformed
	default:
		return id, nil
	}
}
