package httpcausal_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/cluster"
	"github.com/pgkeel/pgkeel/cluster/httpcausal"
	"github.com/pgkeel/pgkeel/providers"
)

// write is a write at that position of timeline 1, through a handle.
func write(ctx context.Context, lsn providers.LSN) {
	providers.CausalityOf(ctx).Note(providers.Position{System: 7, Timeline: 1, LSN: lsn, Replayed: lsn}, true)
}

// serve is a server with the middleware in front of the handler.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(httpcausal.Middleware(handler))
	t.Cleanup(s.Close)
	return s
}

// send sends a request with tokens, and returns the answer and its body.
func send(t *testing.T, s *httptest.Server, tokens ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header[httpcausal.Header] = tokens
	answer, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

// However an answer begins, the token has what was written before.
func TestTheTokenOfAnAnswer(t *testing.T) {
	for what, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		want   string
	}{
		"nothing":  {func(http.ResponseWriter, *http.Request) {}, "1.7.1.a"},
		"a status": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, "1.7.1.a"},
		"a body":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }, "1.7.1.a"},
		"a copy":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, strings.NewReader("x")) }, "1.7.1.a"},
		"a flush":  {func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() }, "1.7.1.a"},
		"an error": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", http.StatusInternalServerError) }, "1.7.1.a"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "")
			w.WriteHeader(http.StatusFound)
		}, "1.7.1.a"},
		"flushed otherwise": {func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() }, "1.7.1.a"},
		"and then a write":  {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusOK); write(r.Context(), 11) }, "1.7.1.a"},
		"a write, then it":  {func(w http.ResponseWriter, r *http.Request) { write(r.Context(), 11); w.WriteHeader(http.StatusOK) }, "1.7.1.b"},
		"nothing copied": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, strings.NewReader(""))
			write(r.Context(), 11)
		}, "1.7.1.b"},
		"information ahead": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			write(r.Context(), 11)
		}, "1.7.1.b"},
		"another's token": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(httpcausal.Header, "1.7.1.c") }, "1.7.1.c"},
		"an older one":    {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(httpcausal.Header, "1.7.1.2") }, "1.7.1.a"},
		"another's none":  {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(httpcausal.Header, "?") }, "1.7.1.a.u"},
	} {
		t.Run(what, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				write(r.Context(), 10)
				c.answer(w, r)
			})
			s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			answer, _ := send(t, s)
			if got := strings.Join(answer.Header.Values(httpcausal.Header), " and "); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestTheTokenOfARequest(t *testing.T) {
	var called bool
	var seen string
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		called, seen = true, cluster.SessionOf(r.Context()).Token()
	})
	for what, c := range map[string]struct {
		tokens []string
		want   string
		bad    bool
	}{
		"none":       {},
		"empty":      {tokens: []string{""}},
		"one":        {tokens: []string{"1.7.2.3"}, want: "1.7.2.3"},
		"a doubt":    {tokens: []string{"1.7.2.3.u"}, want: "1.7.2.3.u"},
		"no token":   {tokens: []string{"secret"}, bad: true},
		"another":    {tokens: []string{"2.7.2.3"}, bad: true},
		"two":        {tokens: []string{"1.7.2.3", "1.7.2.3"}, bad: true},
		"two halves": {tokens: []string{"1.7.2", ".3"}, bad: true},
		"joined":     {tokens: []string{"1.7.2.3, 1.7.2.3"}, bad: true},
		"huge":       {tokens: []string{strings.Repeat("1", 100_000)}, bad: true},
	} {
		t.Run(what, func(t *testing.T) {
			called, seen = false, ""
			answer, body := send(t, s, c.tokens...)
			if called == c.bad || seen != c.want || answer.Header.Get(httpcausal.Header) != c.want {
				t.Errorf("the handler saw %q, and the answer has %q, want %q", seen, answer.Header.Get(httpcausal.Header), c.want)
			}
			if c.bad && (answer.StatusCode != http.StatusBadRequest || !strings.Contains(body, httpcausal.Header) || strings.Contains(body, "secret")) {
				t.Errorf("%d: %q", answer.StatusCode, body)
			}
		})
	}
}

// A session that is there already is the one that counts.
func TestASessionOfTheRequest(t *testing.T) {
	session := cluster.NewSession()
	handler := httpcausal.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if cluster.SessionOf(r.Context()) != session {
			t.Error("another session")
		}
		write(r.Context(), 7)
	}))
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody).WithContext(cluster.WithSession(t.Context(), session))
	r.Header.Set(httpcausal.Header, "1.7.1.5")
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, r)
	if got := answer.Header().Get(httpcausal.Header); got != "1.7.1.7" || session.Token() != got {
		t.Errorf("%q, and the session is %q", got, session.Token())
	}
}

// A handler sees what the server's writer can do, and nothing more.
func TestWhatTheWriterCan(t *testing.T) {
	for what, c := range map[string]struct {
		w                http.ResponseWriter
		flushes, hijacks bool
	}{
		"all":     {struct{ all }{}, true, true},
		"flushes": {struct{ flushing }{}, true, false},
		"hijacks": {struct{ hijacking }{}, false, true},
		"neither": {struct{ http.ResponseWriter }{httptest.NewRecorder()}, false, false},
	} {
		t.Run(what, func(t *testing.T) {
			called := false
			httpcausal.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				called = true
				_, flushes := w.(http.Flusher)
				_, hijacks := w.(http.Hijacker)
				if flushes != c.flushes || hijacks != c.hijacks {
					t.Errorf("it flushes %t, hijacks %t", flushes, hijacks)
				}
				if _, ok := w.(io.ReaderFrom); !ok {
					t.Error("files are copied")
				}
				if err := http.NewResponseController(w).Flush(); (err == nil) != c.flushes {
					t.Error(err)
				}
			})).ServeHTTP(c.w, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
			if !called {
				t.Error("the handler was not called")
			}
		})
	}
}

type flushing struct{ http.ResponseWriter }

func (flushing) Header() http.Header { return http.Header{} }
func (flushing) Flush()              {}

type hijacking struct{ http.ResponseWriter }

func (hijacking) Header() http.Header                          { return http.Header{} }
func (hijacking) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }

type all struct{ flushing }

func (all) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }

// A connection that the handler takes over is its own.
func TestHijack(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		write(r.Context(), 1)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"))
		_ = conn.Close()
	})
	if answer, body := send(t, s); body != "hi" || answer.Header.Get(httpcausal.Header) != "" {
		t.Errorf("%q, %v", body, answer.Header)
	}
}

// do sends a request of the session through the transport.
func do(t *testing.T, transport http.RoundTripper, session *cluster.Session, method, url string) (*http.Request, error) {
	t.Helper()
	ctx := t.Context()
	if session != nil {
		ctx = cluster.WithSession(ctx, session)
	}
	r, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	answer, err := client.Do(r)
	if err == nil {
		_ = answer.Body.Close()
	}
	return r, err
}

func TestThereAndBack(t *testing.T) {
	var came string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		came = cluster.SessionOf(r.Context()).Token()
		write(r.Context(), 20)
		_, _ = io.WriteString(w, "done")
	})
	transport := httpcausal.Transport(nil)
	session := cluster.NewSession()
	write(cluster.WithSession(t.Context(), session), 10)
	r, err := do(t, transport, session, http.MethodPost, s.URL)
	if err != nil || came != "1.7.1.a" || session.Token() != "1.7.1.14" {
		t.Errorf("%v: the server saw %q, the client %q", err, came, session.Token())
	}
	if len(r.Header) > 0 {
		t.Errorf("the caller's request was changed: %v", r.Header)
	}
	// Without a session, and with one that is empty, nothing is sent.
	for _, none := range []*cluster.Session{nil, cluster.NewSession()} {
		if _, err := do(t, transport, none, http.MethodGet, s.URL); err != nil || came != "" {
			t.Errorf("%v: the server saw %q", err, came)
		}
	}
}

// answers is a transport that answers as it is told.
type answers struct {
	status int
	tokens []string
	err    error
}

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.err != nil {
		return nil, a.err
	}
	return &http.Response{StatusCode: a.status, Header: http.Header{httpcausal.Header: a.tokens}, Body: http.NoBody, Request: r}, nil
}

func TestWhatComesBack(t *testing.T) {
	boom := errors.New("boom")
	for what, c := range map[string]struct {
		method string
		answer answers
		want   string
	}{
		"a token":                  {http.MethodGet, answers{200, []string{"1.7.2.3"}, nil}, "1.7.2.3"},
		"two":                      {http.MethodGet, answers{200, []string{"1.7.2.3", "1.7.2.4"}, nil}, "1.7.2.4"},
		"an older one":             {http.MethodPost, answers{200, []string{"1.7.1.3"}, nil}, "1.7.1.9"},
		"none":                     {http.MethodPost, answers{200, nil, nil}, "1.7.1.9"},
		"what is none":             {http.MethodGet, answers{200, []string{"?"}, nil}, "1.7.1.9.u"},
		"a lost write":             {http.MethodPost, answers{0, nil, boom}, "1.7.1.9.u"},
		"a lost read":              {http.MethodGet, answers{0, nil, boom}, "1.7.1.9"},
		"a failed write":           {http.MethodPut, answers{502, nil, nil}, "1.7.1.9.u"},
		"a failed write, a token":  {http.MethodPut, answers{500, []string{"1.7.1.a"}, nil}, "1.7.1.a"},
		"a failed read":            {http.MethodHead, answers{502, nil, nil}, "1.7.1.9"},
		"a write that was refused": {http.MethodPut, answers{404, nil, nil}, "1.7.1.9"},
	} {
		t.Run(what, func(t *testing.T) {
			session := cluster.NewSession()
			write(cluster.WithSession(t.Context(), session), 9)
			if _, err := do(t, httpcausal.Transport(c.answer), session, c.method, "http://a"); !errors.Is(err, c.answer.err) {
				t.Error(err)
			}
			if got := session.Token(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
