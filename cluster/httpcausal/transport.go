package httpcausal

import (
	"net/http"

	"github.com/pgkeel/pgkeel/cluster"
)

// Transport sends the token of the context's session with each request, and has the
// session see what the answer's token says. A request without a session goes out as it
// is. next is nil for [http.DefaultTransport].
//
// When the answer to a request that may write is lost, or the answer of a server that
// failed has no token, nobody knows what was written: the session's next read goes to
// the primary.
func Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{next}
}

type transport struct{ next http.RoundTripper }

// RoundTrip sends a request.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	session := cluster.SessionOf(r.Context())
	if session == nil {
		return t.next.RoundTrip(r)
	}
	if token := session.Token(); token != "" {
		r = r.Clone(r.Context()) // it is not ours to change
		r.Header.Set(Header, token)
	}
	answer, err := t.next.RoundTrip(r)
	if err != nil {
		if mayWrite(r.Method) {
			session.Doubt()
		}
		return answer, err
	}
	tokens := answer.Header.Values(Header)
	merge(session, tokens)
	if len(tokens) == 0 && answer.StatusCode >= http.StatusInternalServerError && mayWrite(r.Method) {
		session.Doubt()
	}
	return answer, nil
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] calls.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// mayWrite reports whether a method is not one of those that only read.
func mayWrite(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return false
	default:
		return true
	}
}
