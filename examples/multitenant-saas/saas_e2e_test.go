package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/tenancy"
)

// site is the application over a database of its own.
type site struct {
	*app
	server *httptest.Server
	dsn    string
	log    *journal
}

// journal is a log that many write to.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func newSite(t *testing.T, pool int32) *site {
	t.Helper()
	s := &site{dsn: pgtest.NewDB(t), log: &journal{}}
	for range 2 { // every start does it
		if err := prepare(t.Context(), s.dsn, "it's\\secret"); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	s.app, err = openApp(t.Context(), settings{
		dsn: s.dsn, domain: "saas.test", appPassword: "it's\\secret", adminToken: "the boss", pool: pool,
	}, slog.New(slog.NewTextHandler(s.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	s.server = httptest.NewServer(s.routes())
	t.Cleanup(func() {
		s.server.Close()
		if err := s.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// request is one of a client; token and headers are optional.
type request struct {
	method, path, token, host string
	tenant                    []string // one header each
	body                      any
}

// do sends a request, reads the answer into into unless that is nil, and returns
// the status.
func (s *site) do(ctx context.Context, in request, into any) (int, error) {
	body, err := json.Marshal(in.body)
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequestWithContext(ctx, in.method, s.server.URL+in.path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Host = in.host
	for _, id := range in.tenant {
		r.Header.Add(tenantHeader, id)
	}
	if in.token != "" {
		r.Header.Set("Authorization", "Bearer "+in.token)
	}
	r.Header.Set(correlationHeader, "request 7")
	answer, err := s.server.Client().Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && into != nil {
		err = json.Unmarshal(text, into)
	}
	return answer.StatusCode, err
}

// must is do, with the status that there must be.
func (s *site) must(t *testing.T, status int, in request, into any) {
	t.Helper()
	got, err := s.do(t.Context(), in, into)
	if err != nil || got != status {
		t.Fatalf("%s %s of %q: status %d instead of %d, %v", in.method, in.path, in.tenant, got, status, err)
	}
}

// client is a user of a tenant.
type client struct {
	*site
	tenant, token string
}

func (s *site) signUpAs(t *testing.T, tenant string) *client {
	t.Helper()
	var answer signUpAnswer
	s.must(t, http.StatusCreated, request{
		method: "POST", path: "/signup", body: signUpRequest{Tenant: tenant, Name: "The " + tenant, User: "first"},
	}, &answer)
	return &client{s, tenant, answer.Token}
}

func (c *client) request(method, path string, body any) request {
	return request{method: method, path: path, token: c.token, tenant: []string{c.tenant}, body: body}
}

func (c *client) add(t *testing.T, title string) note {
	t.Helper()
	var added note
	c.must(t, http.StatusCreated, c.request("POST", "/notes", noteRequest{Title: title, Body: "of " + c.tenant}), &added)
	return added
}

func notePath(n note) string { return fmt.Sprintf("/notes/%d", n.ID) }

func TestTenantsHaveTheirOwnNotes(t *testing.T) {
	s := newSite(t, 2)
	acme, bolt := s.signUpAs(t, "acme"), s.signUpAs(t, "bolt")
	of := map[*client]note{acme: acme.add(t, "plans"), bolt: bolt.add(t, "secrets")}
	for me, other := range map[*client]*client{acme: bolt, bolt: acme} {
		var all []note
		me.must(t, http.StatusOK, me.request("GET", "/notes", nil), &all)
		if len(all) != 1 || all[0] != of[me] {
			t.Errorf("%s sees %+v", me.tenant, all)
		}
		foreign := notePath(of[other])
		me.must(t, http.StatusNotFound, me.request("GET", foreign, nil), nil)
		me.must(t, http.StatusNotFound, me.request("PUT", foreign, noteRequest{Title: "mine now"}), nil)
		me.must(t, http.StatusNotFound, me.request("DELETE", foreign, nil), nil)
		// Its own token does not open the other's door.
		me.must(t, http.StatusUnauthorized, request{
			method: "GET", path: foreign, token: me.token, tenant: []string{other.tenant},
		}, nil)
	}
	var changed note
	acme.must(t, http.StatusOK, acme.request("PUT", notePath(of[acme]), noteRequest{Title: "better plans"}), &changed)
	if changed.Title != "better plans" || changed.Author != of[acme].Author {
		t.Errorf("%+v", changed)
	}
	acme.must(t, http.StatusNoContent, acme.request("DELETE", notePath(of[acme]), nil), nil)
	acme.must(t, http.StatusNotFound, acme.request("GET", notePath(of[acme]), nil), nil)
	bolt.must(t, http.StatusOK, bolt.request("GET", notePath(of[bolt]), nil), nil)
}

func TestSubdomainsAndHeaders(t *testing.T) {
	s := newSite(t, 2)
	acme := s.signUpAs(t, "acme")
	s.must(t, http.StatusOK, request{method: "GET", path: "/notes", token: acme.token, host: "acme.saas.test:8080"}, nil)
	for name, in := range map[string]request{
		"no tenant":           {},
		"another domain":      {host: "acme.example.com"},
		"two headers":         {tenant: []string{"acme", "bolt"}},
		"a quote":             {tenant: []string{"acme' or '1'='1"}},
		"a statement":         {tenant: []string{"acme';drop/**/table/**/notes;--"}},
		"an expression":       {tenant: []string{"acme'||current_user"}},
		"a path":              {tenant: []string{"../acme"}},
		"a wildcard":          {tenant: []string{"%"}},
		"a list":              {tenant: []string{"acme,bolt"}},
		"upper case":          {tenant: []string{"ACME"}},
		"too long":            {tenant: []string{strings.Repeat("a", 64)}},
		"a quote in the host": {host: "a'b.saas.test"},
		"two levels":          {host: "a.acme.saas.test"},
	} {
		in.method, in.path, in.token = "GET", "/notes", acme.token
		if status, err := s.do(t.Context(), in, nil); err != nil || status != http.StatusBadRequest {
			t.Errorf("%s: %d %v", name, status, err)
		}
	}
	s.must(t, http.StatusUnauthorized, request{method: "GET", path: "/notes", tenant: []string{"nobody"}, token: acme.token}, nil)
	s.must(t, http.StatusUnauthorized, request{method: "GET", path: "/notes", tenant: []string{"acme"}}, nil)
}

func TestWhatMakesNoSenseIsRefused(t *testing.T) {
	s := newSite(t, 2)
	acme := s.signUpAs(t, "acme")
	signUp := func(tenant string) request {
		return request{method: "POST", path: "/signup", body: signUpRequest{Tenant: tenant, Name: "x", User: "y"}}
	}
	s.must(t, http.StatusConflict, signUp("acme"), nil)
	for _, id := range []string{"", "a", "x'); drop table notes; --", "-a", "a.b"} {
		s.must(t, http.StatusBadRequest, signUp(id), nil)
	}
	for want, in := range map[int][]request{
		http.StatusBadRequest: {
			acme.request("POST", "/notes", map[string]string{"tenant_id": "bolt"}),
			acme.request("POST", "/notes", noteRequest{Body: "without a title"}),
			acme.request("POST", "/notes", noteRequest{Title: strings.Repeat("long ", maxBody)}),
			acme.request("GET", "/notes?after=x", nil),
		},
		http.StatusNotFound: {acme.request("GET", "/notes/1%20or%201=1", nil), acme.request("GET", "/nothing", nil)},
	} {
		for _, r := range in {
			if status, err := s.do(t.Context(), r, nil); err != nil || status != want {
				t.Errorf("%s %s: %d instead of %d, %v", r.method, r.path, status, want, err)
			}
		}
	}
	odd := acme.add(t, `'); delete from notes; --`)
	var all []note
	acme.must(t, http.StatusOK, acme.request("GET", "/notes", nil), &all)
	if len(all) != 1 || all[0] != odd {
		t.Errorf("%+v", all)
	}
	acme.must(t, http.StatusOK, acme.request("GET", fmt.Sprintf("/notes?after=%d", odd.ID), nil), &all)
	if all == nil || len(all) != 0 {
		t.Errorf("an empty page is %v, not a list", all)
	}
}

func TestTheAdministratorSeesAllAndSaysWhy(t *testing.T) {
	s := newSite(t, 2)
	s.signUpAs(t, "acme").add(t, "plans")
	s.signUpAs(t, "bolt")
	s.must(t, http.StatusUnauthorized, request{method: "GET", path: "/admin/tenants?reason=x", token: "a guess"}, nil)
	s.must(t, http.StatusBadRequest, request{method: "GET", path: "/admin/tenants?reason=%20", token: "the boss"}, nil)
	if strings.Contains(s.log.String(), "from tenants") {
		t.Error("somebody got in")
	}
	var all []tenantSummary
	s.must(t, http.StatusOK, request{method: "GET", path: "/admin/tenants?reason=ticket+4711", token: "the boss"}, &all)
	want := []tenantSummary{{"acme", "The acme", 1, 1}, {"bolt", "The bolt", 1, 0}}
	if len(all) != 2 || all[0] != want[0] || all[1] != want[1] {
		t.Errorf("%+v", all)
	}
	audit := regexp.MustCompile(`around the tenants" reason="ticket 4711" event=query sql=".* from tenants .*" request="request 7"`)
	if !audit.MatchString(s.log.String()) {
		t.Errorf("the audit is\n%s", s.log)
	}
}

func TestManyTenantsOnTwoConnections(t *testing.T) {
	const tenants, callers, rounds = 6, 3, 5
	s := newSite(t, 2)
	clients := make([]*client, tenants)
	first := make([]note, tenants)
	for i := range clients {
		clients[i] = s.signUpAs(t, fmt.Sprintf("tenant-%d", i))
		first[i] = clients[i].add(t, "first")
	}
	var all sync.WaitGroup
	for n := range tenants * callers {
		all.Go(func() {
			me, victim := clients[n%tenants], first[(n+1)%tenants]
			for range rounds {
				if err := me.round(t.Context(), victim); err != nil {
					t.Errorf("%s: %v", me.tenant, err)
					return
				}
			}
		})
	}
	all.Wait()
	var summaries []tenantSummary
	s.must(t, http.StatusOK, request{method: "GET", path: "/admin/tenants?reason=count", token: "the boss"}, &summaries)
	for _, got := range summaries {
		if got.Notes != 1+callers*rounds {
			t.Errorf("%+v", got)
		}
	}
	if stats := s.db.Stats(); len(summaries) != tenants || stats.InUse != 0 || stats.Open > 2 {
		t.Errorf("%d tenants; %+v", len(summaries), stats)
	}
}

// round adds a note, reads all of the tenant's, and goes for one of another.
func (c *client) round(ctx context.Context, victim note) error {
	status, err := c.do(ctx, c.request("POST", "/notes", noteRequest{Title: "more", Body: "of " + c.tenant}), nil)
	if err != nil || status != http.StatusCreated {
		return fmt.Errorf("add: %d %w", status, err)
	}
	var seen []note
	status, err = c.do(ctx, c.request("GET", "/notes", nil), &seen)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("list: %d %w", status, err)
	}
	for _, n := range seen {
		if n.Body != "of "+c.tenant {
			return fmt.Errorf("sees %+v", n)
		}
	}
	status, err = c.do(ctx, c.request("DELETE", notePath(victim), nil), nil)
	if err != nil || status != http.StatusNotFound {
		return fmt.Errorf("another's note: %d %w", status, err)
	}
	return nil
}

func TestTheApplicationIsConfined(t *testing.T) {
	s := newSite(t, 2)
	s.signUpAs(t, "acme")
	if _, err := s.db.Exec(t.Context(), `select`); !errors.Is(err, tenancy.ErrNoTenant) {
		t.Errorf("without a tenant: %v", err)
	}
	ctx := pgkeel.WithTenantID(t.Context(), "bolt")
	if n, err := s.db.QueryCount(ctx, `select count(*) from tenants`); n != 0 || err != nil {
		t.Errorf("bolt sees %d tenants, %v", n, err)
	}
	for _, sql := range []string{
		`insert into users (tenant_id, name, token_hash) values ('acme', 'spy', '')`,                      // the policy
		`update tenants set name = 'x'`, `alter table notes disable row level security`, `truncate notes`, // its rights
	} {
		var pg *pgkeel.PGError
		if _, err := s.db.Exec(ctx, sql); !errors.As(err, &pg) || pg.Code != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// The whole command, with a PostgreSQL of its own: it starts, answers, and ends.
func TestRun(t *testing.T) {
	t.Setenv("SAAS_ADMIN_TOKEN", "the boss")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"-addr", "127.0.0.1:0"}, writer)
		writer.Close()
		ended <- err
	}()
	url := regexp.MustCompile(`msg=listening url=(\S+)`)
	answered := false
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		found := url.FindStringSubmatch(lines.Text())
		if found == nil {
			continue
		}
		answered = true
		answer, err := http.Get(found[1] + "/notes")
		if err != nil {
			t.Error(err)
		} else if answer.Body.Close(); answer.StatusCode != http.StatusBadRequest {
			t.Error(answer.Status)
		}
		cancel()
	}
	if err := <-ended; err != nil || !answered {
		t.Errorf("answered: %v, %v", answered, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestWrongCommandLines(t *testing.T) {
	for want, args := range map[string][]string{
		"unexpected argument": {"postgres://somewhere"},
		"not defined":         {"-nonsense"},
		"the database":        {"-dsn", "postgres://127.0.0.1:1/x"},
		"listen":              {"-addr", "nowhere:-1", "-dsn", pgtest.NewDB(t)},
	} {
		if err := run(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
	if _, err := as("postgres://a:secret@[", "b", "c"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	if dsn, err := as("host=/tmp", "b", `'\`); err != nil || dsn != `host=/tmp user=b password='\'\\'` {
		t.Errorf("%s %v", dsn, err)
	}
}
