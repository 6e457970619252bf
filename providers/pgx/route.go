package pgx

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// errNoRoute is why an acquire was in vain while Route waited.
var errNoRoute = errors.New("there was no server to connect to")

// routes are the places that [providers.Config.Route] sent attempts to.
type routes struct {
	// asking counts the calls of Route under way.
	asking atomic.Int32

	mu    sync.Mutex
	known []route // the newest last
}

// route is a DSN and what it says.
type route struct {
	dsn    string
	config *pgx.ConnConfig
}

// maxRoutes is how many are kept. There are as many as servers, unless the
// password changes with every attempt.
const maxRoutes = 64

// to parses a DSN, once.
func (r *routes) to(dsn string) (*pgx.ConnConfig, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.known, func(k route) bool { return k.dsn == dsn }); i >= 0 {
		return r.known[i].config, nil
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, &providers.ConfigError{
			Field: "Route", Problem: "returned a DSN that cannot be parsed: " + providers.Redact(err.Error(), dsn),
		}
	}
	if len(r.known) == maxRoutes {
		r.known = slices.Delete(r.known, 0, 1)
	}
	r.known = append(r.known, route{dsn, config})
	return config, nil
}

// redact takes the secrets of every place out of a text.
func (r *routes) redact(text string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.known {
		text = providers.Redact(text, k.dsn)
	}
	return text
}

// route has an attempt to connect go where Route says. It waits as long as Route
// does, before the attempt takes its place among the others.
func (p *Pool) route(ctx context.Context, config *pgx.ConnConfig) error {
	if p.cfg.Route == nil {
		return nil
	}
	p.routes.asking.Add(1)
	defer p.routes.asking.Add(-1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.life, func() { cancel(errPoolClosed) })()
	dsn, err := p.cfg.Route(ctx)
	if err != nil {
		return &connectFailure{text: p.routes.redact(providers.Redact(err.Error(), dsn)), cause: err}
	}
	to, err := p.routes.to(dsn)
	if err != nil {
		return err
	}
	redirect(config, to.Copy())
	return nil
}

// redirect takes over what says where a connection goes, and as whom. pgx keeps the
// client certificates of a DSN where nobody else can reach them, so it is the rest
// that is put back.
func redirect(config, to *pgx.ConnConfig) {
	own := config.Config
	config.Config = to.Config
	c := &config.Config
	c.ConnectTimeout, c.DialFunc, c.LookupFunc = own.ConnectTimeout, own.DialFunc, own.LookupFunc
	c.BuildFrontend, c.MaxProtocolMessageBodyLen = own.BuildFrontend, own.MaxProtocolMessageBodyLen
	c.BuildContextWatcherHandler, c.RuntimeParams = own.BuildContextWatcherHandler, own.RuntimeParams
	c.KerberosSrvName, c.KerberosSpn, c.OAuthTokenProvider = own.KerberosSrvName, own.KerberosSpn, own.OAuthTokenProvider
	c.AfterNetConnect, c.ValidateConnect, c.AfterConnect = own.AfterNetConnect, own.ValidateConnect, own.AfterConnect
	c.OnNotice, c.OnNotification, c.OnPgError = own.OnNotice, own.OnNotification, own.OnPgError
	c.MinProtocolVersion, c.MaxProtocolVersion = own.MinProtocolVersion, own.MaxProtocolVersion
	c.ChannelBinding, c.RequireAuth = own.ChannelBinding, own.RequireAuth
}
