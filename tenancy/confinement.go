package tenancy

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pgkeel/pgkeel/providers"
)

// RLSOption is an option of [RLS].
type RLSOption interface{ applyRLS(m *rlsMode) }

// SchemaOption is an option of [Schema] and [NewSchemas].
type SchemaOption interface{ applySchema(m *schemaMode) }

// Option is an option of [RLS] as well as of [Schema].
type Option interface {
	RLSOption
	SchemaOption
}

type option func(*confinement)

func (o option) applyRLS(m *rlsMode)       { o(&m.confinement) }
func (o option) applySchema(m *schemaMode) { o(&m.confinement) }

// confinement is what [RLS] and [Schema] have in common: what a tenant's
// operations are confined to besides the tenant itself.
type confinement struct {
	limits

	userSetting string
	role        string
	roleOf      func(ctx context.Context) (string, error)
	bypassRole  string
}

// UserSetting hands the user's id ([providers.WithUserID]) to the server in a
// custom parameter such as "app.user_id", for policies and triggers. Without a
// user it is empty, never that of somebody else.
func UserSetting(name string) Option {
	return option(func(c *confinement) {
		c.userSetting = name
		c.checkParameter("UserSetting", name)
	})
}

// Role has the operations of tenants done by this role of the database, such as
// "app_user", of which the connecting role has to be a member. So the pool can
// connect as a role that may do more, for what is done under [Bypass]. Like the
// tenant it is a setting: SQL that an attacker could write himself may undo it,
// by RESET ROLE.
func Role(name string) Option {
	return option(func(c *confinement) {
		c.fault(c.role != "" || c.roleOf != nil, "Role", "there is a Role or RoleFunc already; give one")
		c.fault(roleFault(name) != "", "Role", "%q %s", name, roleFault(name))
		c.role = name
	})
}

// RoleFunc is like [Role], with a role that depends on the context. It is asked
// at the beginning of each operation, so it should be quick, and it has to give
// the same answer for all of a transaction. With [RLS] every role that the
// connecting role may become is checked at Open, since any may be asked for.
func RoleFunc(role func(ctx context.Context) (string, error)) Option {
	return option(func(c *confinement) {
		c.fault(c.role != "" || c.roleOf != nil, "RoleFunc", "there is a Role or RoleFunc already; give one")
		c.fault(role == nil, "RoleFunc", "the function is nil")
		c.roleOf = role
	})
}

// BypassRole has what is done under [Bypass] done by this role of the database,
// such as one with BYPASSRLS. Default: the connecting role.
func BypassRole(name string) Option {
	return option(func(c *confinement) {
		c.fault(roleFault(name) != "", "BypassRole", "%q %s", name, roleFault(name))
		c.bypassRole = name
	})
}

// parameterName is what PostgreSQL takes for a custom parameter, and no more
// than one dot.
var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*$`)

func (c *confinement) checkParameter(field, name string) {
	c.fault(!parameterName.MatchString(name), field,
		"%q is no custom parameter; use two names with a dot between them, of letters, digits and _, such as app.tenant_id", name)
}

// roleFault says what is wrong with the name of a role.
func roleFault(name string) string {
	switch {
	case name == "":
		return "is empty"
	case strings.EqualFold(name, "none"):
		return "means to PostgreSQL that there is no role" // and so undoes one
	default:
		return textFault(name)
	}
}

// textFault says why PostgreSQL could not take s as a text.
func textFault(s string) string {
	switch {
	case strings.ContainsRune(s, 0):
		return "contains a NUL byte"
	case !utf8.ValidString(s):
		return "is not UTF-8"
	default:
		return ""
	}
}

// configure checks the options and puts scope into the configuration.
func (c *confinement) configure(cfg *providers.Config, scope providers.ScopeFunc) error {
	all := limits{faults: slices.Clip(c.faults)} // Open may be called again
	all.fault(cfg.Scope != nil, "Scope", "the configuration has a Scope already; tenancy makes its own")
	cfg.Scope = scope
	return errors.Join(all.faults...)
}

// scopeFunc is the ScopeFunc whose first setting is own's.
func (c *confinement) scopeFunc(bypass []providers.Setting, own func(id string) (providers.Setting, error)) providers.ScopeFunc {
	if c.bypassRole != "" {
		bypass = append(bypass, providers.Setting{Name: "role", Value: c.bypassRole})
	}
	return func(ctx context.Context) (providers.Scope, error) {
		if free, err := bypassed(ctx); free || err != nil {
			return providers.Scope{Settings: bypass}, err
		}
		id, err := tenantOf(ctx)
		if err != nil {
			return providers.Scope{}, err
		}
		first, err := own(id)
		if err != nil {
			return providers.Scope{}, err
		}
		return c.scope(ctx, id, first)
	}
}

func (c *confinement) scope(ctx context.Context, id string, first providers.Setting) (providers.Scope, error) {
	settings := make([]providers.Setting, 1, c.most())
	settings[0] = first
	if c.userSetting != "" {
		user, _ := providers.GetUserID(ctx)
		if fault := textFault(user); fault != "" {
			return providers.Scope{}, refusef("the user's id %s", fault)
		}
		settings = append(settings, providers.Setting{Name: c.userSetting, Value: user})
	}
	settings = append(settings, c.settings()...)
	role, err := c.tenantRole(ctx)
	if err != nil {
		return providers.Scope{}, err
	}
	if role != "" {
		settings = append(settings, providers.Setting{Name: "role", Value: role})
	}
	scope := providers.Scope{Settings: settings}
	if c.gates != nil {
		scope.Gate = tenantGate{c.gates, id}
	}
	c.began(id)
	return scope, nil
}

// most is how many settings a tenant's operation can have. They are made anew for
// each.
func (c *confinement) most() int {
	most := 1
	for _, there := range [...]bool{c.userSetting != "", c.timeout != "", c.role != "" || c.roleOf != nil} {
		if there {
			most++
		}
	}
	return most
}

// tenantRole is the role for a tenant's operation, or "" for the connecting one.
func (c *confinement) tenantRole(ctx context.Context) (string, error) {
	if c.roleOf == nil {
		return c.role, nil
	}
	role, err := c.roleOf(ctx)
	switch {
	case err != nil:
		return "", &notSentError{fmt.Errorf("pgkeel: tenancy: RoleFunc: %w; nothing was sent", err)}
	case roleFault(role) != "":
		return "", refusef("the role %q of RoleFunc %s", role, roleFault(role))
	case role == c.bypassRole:
		return "", refusef("the role %q of RoleFunc is that of BypassRole, which is not for tenants", role)
	default:
		return role, nil
	}
}

// bypassFor returns a context for what pgkeel itself has to do.
func bypassFor(ctx context.Context, reason string) context.Context {
	if given, ok := BypassReason(ctx); ok && strings.TrimSpace(given) != "" {
		return ctx // keep what is there for those who audit
	}
	return Bypass(ctx, reason)
}

// closePool closes a pool that was refused, and of which nobody knows.
func closePool(ctx context.Context, pool providers.Pool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = pool.Close(ctx) // what it was refused for is the error
}

// closeTimeout bounds the closing of a pool without borrowers.
const closeTimeout = 5 * time.Second
