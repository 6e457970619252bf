package tenancy

import (
	"context"

	"github.com/pgkeel/pgkeel/providers"
)

// limitedMember is the gate of a tenant that has so many places: first it takes
// one of these, then a connection. It is a value, like [tenantGate].
type limitedMember struct {
	*member

	places tenantGate
}

var _ providers.Gate = limitedMember{}

// Enter waits for a place, and then for a connection.
func (m limitedMember) Enter(ctx context.Context) error {
	waited, err := m.places.enter(ctx)
	if err != nil {
		return err
	}
	if waited && !m.db.router.isAt(m.member) {
		err = errMoved
	} else {
		err = m.member.Enter(ctx)
	}
	if err != nil {
		m.places.Leave()
	}
	return err
}

// Leave gives both back.
func (m limitedMember) Leave() {
	m.member.Leave()
	m.places.Leave()
}

// limit has the limits of tenants hold for the member, as part of its scope.
func (m *member) limit(l limits) {
	m.scope.Gate = m
	if m.tenant == adminTenant {
		return
	}
	m.scope.Settings = append(m.scope.Settings, l.settings()...)
	if l.gates != nil {
		m.scope.Gate = limitedMember{m, tenantGate{l.gates, m.tenant}}
	}
}
