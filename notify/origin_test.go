package notify

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/pgkeel/pgkeel/providers"
)

// tenantPool notes whose each connection is.
type tenantPool struct {
	*fakePool

	mu      sync.Mutex
	tenants []string
}

// Listen is the pool's.
func (p *tenantPool) Listen(ctx context.Context, opts providers.ListenOptions) (providers.ListenConn, error) {
	tenant, _ := providers.GetTenantID(ctx)
	p.mu.Lock()
	p.tenants = append(p.tenants, tenant)
	p.mu.Unlock()
	return p.fakePool.Listen(ctx, opts)
}

// Every connection is made for the one who started the listener.
func TestConnectionsHaveTheValuesOfTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &tenantPool{fakePool: &fakePool{}}
		l, err := New(p, Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(providers.WithTenantID(t.Context(), "acme"))
		if err := l.Start(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		s := subscribe(t, l, "a")
		p.last().fail(errors.New("lost"))
		if e := next(t, s); e.Kind != Gap {
			t.Errorf("%+v", e)
		}
		closeListener(t, l)
		if len(p.tenants) != 2 || p.tenants[0] != "acme" || p.tenants[1] != "acme" {
			t.Errorf("connections of %q", p.tenants)
		}
	})
}
