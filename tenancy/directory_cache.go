package tenancy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// retryLookup is how long a directory that failed is left alone for a tenant
// that is known.
const retryLookup = time.Second

// directoryCache keeps the answers of a directory. One lookup of a tenant is
// under way at a time, however many callers wait for it.
//
// Half of its time an answer is used as it is, the other half as well while a
// new one is fetched, so that a tenant in use never waits. After its time a
// caller waits for a new one: a tenant that was idle for long must not write to
// the database that it was moved away from. Only a directory that fails or takes
// too long is answered for with what was known last.
//
// Tenants that do not exist are not kept: a new one is found at once, and who
// invents ids fills no memory.
type directoryCache struct {
	directory    Directory
	ttl, timeout time.Duration
	// life ends with the router, background is what its Close waits for.
	life       context.Context //nolint:containedctx // the router's own life
	background *sync.WaitGroup
	// unused is told of a DSN that no tenant has any more.
	unused func(dsn string)

	mu      sync.Mutex
	entries map[string]*directoryEntry
	uses    map[string]int // tenants by DSN
	stats   directoryStats
}

type directoryStats struct{ lookups, failures, stale, moves int64 }

// directoryEntry is what is known of a tenant.
type directoryEntry struct {
	dsn string // empty until the first answer
	// refresh is when a new answer is fetched, expires when callers wait for it.
	refresh, expires time.Time
	lookup           *lookup // under way
}

// lookup is one question to the directory.
type lookup struct {
	done chan struct{}
	dsn  string
	err  error
}

func (c *directoryCache) find(ctx context.Context, tenant string) (string, error) {
	now := time.Now()
	c.mu.Lock()
	if c.life.Err() != nil {
		c.mu.Unlock()
		return "", providers.ErrPoolClosed
	}
	e := c.entries[tenant]
	if e == nil {
		e = &directoryEntry{}
		c.entries[tenant] = e
	}
	known := e.dsn
	if known != "" && now.Before(e.refresh) {
		c.mu.Unlock()
		return known, nil
	}
	l := e.lookup
	if l == nil {
		l = c.look(ctx, tenant, e)
	}
	if known != "" && now.Before(e.expires) {
		c.mu.Unlock()
		return known, nil
	}
	c.mu.Unlock()
	select {
	case <-l.done:
		return l.dsn, l.err
	case <-ctx.Done():
		return "", &notSentError{fmt.Errorf("pgkeel: tenancy: the wait for the directory ended: %w; nothing was sent", context.Cause(ctx))}
	}
}

// current is what is known of a tenant, without asking.
func (c *directoryCache) current(tenant string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[tenant]; e != nil {
		return e.dsn
	}
	return ""
}

// look asks the directory, on behalf of all who wait: the end of the first
// caller's context does not end it.
func (c *directoryCache) look(ctx context.Context, tenant string, e *directoryEntry) *lookup {
	l := &lookup{done: make(chan struct{})}
	e.lookup = l
	c.stats.lookups++
	ctx = context.WithoutCancel(ctx)
	c.background.Go(func() {
		dsn, err := c.ask(ctx, tenant)
		gone := c.settle(tenant, e, l, dsn, err)
		close(l.done)
		if gone != "" {
			c.unused(gone)
		}
	})
	return l
}

// ask waits for the directory no longer than the time that it has, whether it
// heeds its context or not.
func (c *directoryCache) ask(ctx context.Context, tenant string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("the directory did not answer within %s", c.timeout))
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	type answer struct {
		dsn string
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		a := answer{err: errors.New("the directory panicked")}
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("the directory panicked: %v", p)
			}
			answered <- a
		}()
		a.dsn, a.err = c.directory.Lookup(ctx, tenant)
	}()
	select {
	case a := <-answered:
		if a.err == nil {
			a.err = checkDSN(a.dsn)
		}
		return a.dsn, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// settle notes the answer, and returns the DSN that it leaves without tenants.
func (c *directoryCache) settle(tenant string, e *directoryEntry, l *lookup, dsn string, err error) (gone string) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	e.lookup = nil
	switch {
	case err == nil:
		l.dsn = dsn
		e.refresh, e.expires = now.Add(c.ttl/2), now.Add(c.ttl)
		return c.place(e, dsn)
	case errors.Is(err, ErrUnknownTenant):
		l.err = unknownTenant(tenant)
		delete(c.entries, tenant)
		return c.place(e, "")
	}
	c.stats.failures++
	if e.dsn == "" {
		delete(c.entries, tenant)
		l.err = lookupError(tenant, err)
		return ""
	}
	// Until it answers again nobody waits for it.
	c.stats.stale++
	l.dsn = e.dsn
	e.refresh, e.expires = now.Add(retryLookup), now.Add(forEver)
	return ""
}

// forEver is longer than any process lives, and can be added to a time.
const forEver = 100 * 365 * 24 * time.Hour

// place moves the tenant to another DSN, and returns the one that nobody has any
// more.
func (c *directoryCache) place(e *directoryEntry, dsn string) (gone string) {
	before := e.dsn
	if before == dsn {
		return ""
	}
	e.dsn = dsn
	if dsn != "" {
		c.uses[dsn]++
	}
	if before == "" {
		return ""
	}
	c.stats.moves++
	if c.uses[before]--; c.uses[before] > 0 {
		return ""
	}
	delete(c.uses, before)
	return before
}

// lookupError is the error of a tenant of whom nothing is known. Directories
// speak of DSNs, so what looks like a secret is taken out of its text.
func lookupError(tenant string, err error) error {
	return &notSentError{&redactedError{
		fmt.Sprintf("pgkeel: tenancy: the directory failed for the tenant %q: %s; nothing was sent", tenant, providers.Redact(err.Error(), "")), err,
	}}
}

// redactedError is an error whose text was cleared of secrets.
type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string { return e.text }
func (e *redactedError) Unwrap() error { return e.err }

// checkDSN refuses a DSN that would lead elsewhere than to the tenant's database,
// or have connections made that nobody asked for and the limit does not know of.
func checkDSN(dsn string) error {
	if dsn == "" {
		return errors.New("its DSN is empty, which would mean the PG* environment")
	}
	parsed, err := pgx.ParseConfig(dsn)
	if err != nil {
		return errors.New("its DSN cannot be parsed: " + providers.Redact(err.Error(), dsn))
	}
	for _, name := range []string{"pool_min_conns", "pool_min_idle_conns"} {
		if n := parsed.RuntimeParams[name]; n != "" && n != "0" {
			return fmt.Errorf("its DSN has %s=%s, which would keep connections for a tenant without work; leave it out", name, n)
		}
	}
	return nil
}
