package main

import (
	"context"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"strings"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/tenancy"
)

// forAdmin lets the operator in, who has to say why. From here on the context
// belongs to no tenant on purpose.
func (a *app) forAdmin(next handler) handler {
	want := hash(a.adminToken)
	return func(r *http.Request) (int, any, error) {
		token, ok := bearer(r)
		if !ok || subtle.ConstantTimeCompare(hash(token), want) == 0 {
			return 0, nil, refusal(http.StatusUnauthorized, "the administrator's token is needed")
		}
		reason := strings.TrimSpace(r.URL.Query().Get("reason"))
		if reason == "" {
			return 0, nil, refusal(http.StatusBadRequest, "say why, for the audit: ?reason=…")
		}
		return next(r.WithContext(tenancy.Bypass(r.Context(), reason)))
	}
}

type tenantSummary struct {
	Tenant string `json:"tenant"`
	Name   string `json:"name"`
	Users  int64  `json:"users"`
	Notes  int64  `json:"notes"`
}

func (a *app) listTenants(r *http.Request) (int, any, error) {
	all, err := pgkeel.All[tenantSummary](r.Context(), a.db, `
		select tenant_id as tenant, name,
			(select count(*) from users where users.tenant_id = tenants.tenant_id) as users,
			(select count(*) from notes where notes.tenant_id = tenants.tenant_id) as notes
		from tenants order by tenant_id`)
	return http.StatusOK, all, err
}

// auditHook writes down what is done around the tenants, before it is done:
// whoever does it, and also if it fails.
func auditHook(log *slog.Logger) pgkeel.Hook {
	return pgkeel.Hook{
		Name: "audit",
		Events: []pgkeel.HookEvent{
			pgkeel.EventQuery, pgkeel.EventExec, pgkeel.EventBatch, pgkeel.EventCopy, pgkeel.EventBegin,
		},
		Before: func(ctx context.Context, info *pgkeel.HookInfo) context.Context {
			if reason, ok := tenancy.BypassReason(ctx); ok {
				log.WarnContext(ctx, "around the tenants", "reason", reason, "event", info.Event.String(),
					"sql", strings.Join(strings.Fields(info.SQL), " "), "request", info.CorrelationID)
			}
			return ctx
		},
	}
}
