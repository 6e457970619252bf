package httptenant_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/tenancy/httptenant"
)

func Example() {
	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := providers.GetTenantID(r.Context()) // as every statement with r.Context() will
		fmt.Fprintln(w, "orders of", id)
	})
	tenant := httptenant.Middleware(httptenant.Subdomain("example.com"), httptenant.Status(http.StatusNotFound))
	mux := http.NewServeMux()
	mux.Handle("/orders", tenant(orders))

	for _, url := range []string{"https://acme.example.com/orders", "https://example.com/orders"} {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, url, http.NoBody))
		fmt.Print(answer.Code, " ", answer.Body)
	}
	// Output:
	// 200 orders of acme
	// 404 Not Found
}

// The subdomain says which tenant is meant, the token whether its bearer may be it.
func ExampleFunc() {
	subdomain := httptenant.Subdomain("example.com")
	verified := httptenant.Func(func(r *http.Request) (string, error) {
		id, err := subdomain(r)
		if err != nil || id == "" {
			return "", err
		}
		if id != tenantOfToken(r) {
			return "", errors.New("the token is another tenant's")
		}
		return id, nil
	})
	_ = httptenant.Middleware(verified, httptenant.Status(http.StatusUnauthorized))
	// Output:
}

func tenantOfToken(r *http.Request) string { return r.Header.Get("Authorization") }
