package httpcausal

import (
	"net/http"
	"strings"

	"github.com/pgkeel/pgkeel/cluster"
)

// Header is where the token is, in requests and in answers.
const Header = "Pgkeel-Token"

// Middleware puts a session into the context of each request, if there is none, has it
// see what the request's token says, and sends its token with the answer. A request
// whose token is none, or that has two, is answered with the status 400, and the
// handler is not called.
func Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session := cluster.SessionOf(r.Context())
		if session == nil {
			session = cluster.NewSession()
			r = r.WithContext(cluster.WithSession(r.Context(), session))
		}
		// Two values in one, by a proxy, are no token either.
		tokens := r.Header.Values(Header)
		if len(tokens) > 1 || session.Merge(strings.Join(tokens, "")) != nil {
			http.Error(w, "the header "+Header+" has no token of a session", http.StatusBadRequest)
			return
		}
		answer := &writer{ResponseWriter: w, session: session}
		defer answer.stamp() // for an answer without a body
		next.ServeHTTP(answer.asAble(), r)
	})
}
