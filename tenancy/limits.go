package tenancy

import (
	"fmt"
	"strconv"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// LimitOption is an option of [RLS], of [Schema] and of [Database].
type LimitOption interface {
	Option
	DatabaseOption
}

type limitOption func(*limits)

func (o limitOption) applyRLS(m *rlsMode)           { o(&m.limits) }
func (o limitOption) applySchema(m *schemaMode)     { o(&m.limits) }
func (o limitOption) applyDatabase(m *databaseMode) { o(&m.limits) }

// limits are what every mode has: what each tenant may use, and how that is
// counted.
type limits struct {
	faults  []error
	timeout string // of a statement, in milliseconds
	gates   *gates
	usage   *Usage
}

// TenantStatementTimeout is the server's limit for each statement of a tenant.
// It is rounded up to milliseconds. Of it and a deadline of the context that is
// sent to the server the shorter one counts.
func TenantStatementTimeout(d time.Duration) LimitOption {
	return limitOption(func(l *limits) {
		l.fault(d <= 0, "TenantStatementTimeout", "%s is no limit; leave the option out for none", d)
		l.timeout = strconv.FormatInt(providers.Milliseconds(d), 10)
	})
}

// TenantConcurrency has at most n operations of one tenant at a time hold a
// connection; the others wait in the order in which they came, see
// [TenantBusyError]. So one tenant cannot use up the pool. A transaction holds
// its connection, and its place, until it ends. Bypass is not limited, nor is a
// connection for LISTEN.
func TenantConcurrency(n int) LimitOption {
	return limitOption(func(l *limits) {
		l.fault(n < 1, "TenantConcurrency", "%d would let nobody in; it must be at least 1", n)
		l.gates = newGates(n)
	})
}

// TenantUsage counts the operations of tenants in u.
func TenantUsage(u *Usage) LimitOption {
	return limitOption(func(l *limits) {
		l.fault(u == nil, "TenantUsage", "is nil; make one with NewUsage")
		l.usage = u
	})
}

func (l *limits) fault(bad bool, field, format string, args ...any) {
	if bad {
		l.faults = append(l.faults, &providers.ConfigError{Field: "Tenancy." + field, Problem: fmt.Sprintf(format, args...)})
	}
}

// settings of a tenant's scope that are the same for all.
func (l *limits) settings() []providers.Setting {
	if l.timeout == "" {
		return nil
	}
	return []providers.Setting{{Name: "statement_timeout", Value: l.timeout}}
}

// began counts an operation of the tenant.
func (l *limits) began(tenant string) {
	if l.usage != nil {
		l.usage.count(tenant)
	}
}
