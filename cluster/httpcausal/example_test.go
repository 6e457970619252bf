package httpcausal_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/pgkeel/pgkeel/cluster"
	"github.com/pgkeel/pgkeel/cluster/httpcausal"
	"github.com/pgkeel/pgkeel/providers"
)

// The service that writes an order and the one that shows it share nothing but the
// token.
func Example() {
	orders := httptest.NewServer(httpcausal.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeOrder(r.Context())
		w.WriteHeader(http.StatusCreated)
	})))
	defer orders.Close()

	ctx := cluster.WithSession(context.Background(), cluster.NewSession())
	client := &http.Client{Transport: httpcausal.Transport(nil)}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, orders.URL, http.NoBody)
	if err != nil {
		return
	}
	answer, err := client.Do(request)
	if err != nil {
		return
	}
	_ = answer.Body.Close()

	// What is read with ctx from now on is read where the order is.
	fmt.Println(answer.StatusCode, cluster.SessionOf(ctx).Token())
	// Output: 201 1.7.3.2a0
}

// writeOrder is a write through a handle, which tells the session its position.
func writeOrder(ctx context.Context) {
	providers.CausalityOf(ctx).Note(providers.Position{System: 7, Timeline: 3, LSN: 0x2a0}, true)
}
