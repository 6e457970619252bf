package httpcausal

import (
	"io"
	"net/http"

	"github.com/pgkeel/pgkeel/cluster"
)

// writer sets the token just before an answer begins.
type writer struct {
	http.ResponseWriter

	session *cluster.Session
	begun   bool
}

// stamp sets the token, unless the headers have left. One that the handler had set
// itself, that of another service whose answer it passes on, counts as well.
func (w *writer) stamp() {
	if w.begun {
		return
	}
	merge(w.session, w.Header().Values(Header))
	if token := w.session.Token(); token != "" {
		w.Header().Set(Header, token)
	}
}

// merge has the session see what an answer's tokens say. Who sent something else may
// have written something.
func merge(session *cluster.Session, tokens []string) {
	for _, token := range tokens {
		if session.Merge(token) != nil {
			session.Doubt()
		}
	}
}

// WriteHeader sends the headers.
func (w *writer) WriteHeader(status int) {
	// Those that only inform come ahead of the answer.
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols {
		w.stamp()
		w.begun = true
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write sends the headers, if they have not left, and a part of the body.
func (w *writer) Write(p []byte) (int, error) {
	w.stamp()
	w.begun = true
	return w.ResponseWriter.Write(p)
}

// ReadFrom lets the server send a file without a copy of it.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	w.stamp()
	n, err := io.Copy(w.ResponseWriter, src)
	w.begun = w.begun || n > 0
	return n, err
}

// FlushError is what [http.ResponseController] flushes with.
func (w *writer) FlushError() error {
	w.stamp()
	w.begun = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap is for the rest of what [http.ResponseController] can.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// flusher is for handlers that ask for an [http.Flusher].
type flusher struct{ w *writer }

func (f flusher) Flush() { _ = f.w.FlushError() }

// asAble returns a writer with those of the optional methods that the server's has,
// since handlers go by whether it has them.
func (w *writer) asAble() http.ResponseWriter {
	_, flushes := w.ResponseWriter.(http.Flusher)
	hijacker, hijacks := w.ResponseWriter.(http.Hijacker)
	switch {
	case flushes && hijacks:
		return struct {
			*writer
			flusher
			http.Hijacker
		}{w, flusher{w}, hijacker}
	case flushes:
		return struct {
			*writer
			flusher
		}{w, flusher{w}}
	case hijacks:
		return struct {
			*writer
			http.Hijacker
		}{w, hijacker}
	default:
		return w
	}
}
