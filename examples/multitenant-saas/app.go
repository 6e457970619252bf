package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/tenancy"
	"github.com/pgkeel/pgkeel/tenancy/httptenant"
)

const (
	// tenantHeader names the tenant where there is no subdomain.
	tenantHeader = "X-Tenant"
	// acquireTimeout is how long a request waits for a connection.
	acquireTimeout = 3 * time.Second
	// tenantTimeout is the server's limit for a statement of a tenant.
	tenantTimeout = 2 * time.Second
	// correlationHeader names a request in logs, here and at the caller's.
	correlationHeader = "X-Correlation-ID"
)

// app answers requests.
type app struct {
	db         *pgkeel.DB
	log        *slog.Logger
	domain     string
	adminToken string
}

// openApp opens the handle as the role that the policies bind. Open refuses a
// database in which they would not.
func openApp(ctx context.Context, s settings, log *slog.Logger) (*app, error) {
	dsn, err := as(s.dsn, appRole, s.appPassword)
	if err != nil {
		return nil, err
	}
	db, err := pgkeel.Open(ctx, dsn,
		pgkeel.WithLogger(log),
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: s.pool}),
		pgkeel.WithAcquireTimeout(acquireTimeout),
		pgkeel.WithTenancy(tenancy.RLS(tenantSetting,
			tenancy.UserSetting(userSetting),
			tenancy.BypassRole(adminRole),
			tenancy.TenantStatementTimeout(tenantTimeout),
			tenancy.TenantConcurrency(max(1, int(s.pool)/2)), // so that one tenant leaves room for others
		)))
	if err != nil {
		return nil, fmt.Errorf("open the database as %s: %w", appRole, err)
	}
	a := &app{db: db, log: log, domain: s.domain, adminToken: s.adminToken}
	// Only now, as Open's own look at the roles and policies is nobody's bypass.
	if err := db.Hooks().Register(auditHook(log)); err != nil {
		return nil, errors.Join(err, a.close(ctx))
	}
	return a, nil
}

func (a *app) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	return a.db.Close(ctx)
}

// routes are all that the application answers. Only what is behind forTenant
// ever has a tenant, so nothing else can reach a tenant's rows by mistake.
func (a *app) routes() http.Handler {
	tenant := httptenant.Middleware(
		httptenant.First(httptenant.Subdomain(a.domain), httptenant.Header(tenantHeader)),
		httptenant.Valid(isTenantID),
		httptenant.Refuse(func(w http.ResponseWriter, _ *http.Request, _ error) {
			refuse(w, http.StatusBadRequest, "a tenant is needed, by its subdomain or in "+tenantHeader)
		}),
	)
	forTenant := func(h handler) http.Handler { return tenant(a.answer(a.authenticated(h))) }

	mux := http.NewServeMux()
	mux.Handle("POST /signup", a.answer(a.signUp))
	mux.Handle("GET /notes", forTenant(a.listNotes))
	mux.Handle("POST /notes", forTenant(a.addNote))
	mux.Handle("GET /notes/{id}", forTenant(a.readNote))
	mux.Handle("PUT /notes/{id}", forTenant(a.changeNote))
	mux.Handle("DELETE /notes/{id}", forTenant(a.deleteNote))
	mux.Handle("GET /admin/tenants", a.answer(a.forAdmin(a.listTenants)))
	return limited(mux)
}

// tenantID is what can be a subdomain, too.
var tenantID = regexp.MustCompile(`^[a-z][a-z0-9-]{0,61}[a-z0-9]$`)

func isTenantID(id string) bool { return tenantID.MatchString(id) }

// limited gives each request its time, and puts its id into the context, where
// hooks and errors find it.
func limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		if id := r.Header.Get(correlationHeader); id != "" {
			ctx = pgkeel.WithCorrelationID(ctx, id)
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
