package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
)

type signUpRequest struct {
	Tenant string `json:"tenant"` // its subdomain
	Name   string `json:"name"`
	User   string `json:"user"`
}

type signUpAnswer struct {
	Tenant string `json:"tenant"`
	// Token is shown this once; the database has its hash.
	Token string `json:"token"`
}

// signUp makes a tenant and its first user, both or none. It does so as that
// tenant: a sign-up needs no way around the policies.
func (a *app) signUp(r *http.Request) (int, any, error) {
	in, err := receive[signUpRequest](r)
	if err != nil {
		return 0, nil, err
	}
	if !isTenantID(in.Tenant) || in.Name == "" || in.User == "" {
		return 0, nil, refusal(http.StatusBadRequest,
			"tenant must be 2 to 63 lower-case letters, digits and hyphens, and name and user not empty")
	}
	token := rand.Text()
	err = a.db.RunTx(pgkeel.WithTenantID(r.Context(), in.Tenant), func(ctx context.Context, tx pgkeel.Tx) error {
		if _, err := tx.Exec(ctx, `insert into tenants (tenant_id, name) values ($1, $2)`, in.Tenant, in.Name); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `insert into users (name, token_hash) values ($1, $2)`, in.User, hash(token))
		return err
	})
	return http.StatusCreated, signUpAnswer{in.Tenant, token}, err
}

// authenticated lets in who has a token of the request's tenant. The subdomain
// says which tenant is meant, and anybody can say that. A token of another
// tenant is not found, as its row is not to be seen.
func (a *app) authenticated(next handler) handler {
	return func(r *http.Request) (int, any, error) {
		token, ok := bearer(r)
		if !ok {
			return 0, nil, refusal(http.StatusUnauthorized, "a token is needed: Authorization: Bearer …")
		}
		user, err := pgkeel.One[int64](r.Context(), a.db, `select id from users where token_hash = $1`, hash(token))
		if errors.Is(err, pgx.ErrNoRows) {
			return 0, nil, refusal(http.StatusUnauthorized, "the token is not one of this tenant")
		}
		if err != nil {
			return 0, nil, err
		}
		return next(r.WithContext(pgkeel.WithUserID(r.Context(), strconv.FormatInt(user, 10))))
	}
}

func bearer(r *http.Request) (string, bool) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token, ok && token != ""
}

// hash needs no salt: a token is as random as one would be.
func hash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}
