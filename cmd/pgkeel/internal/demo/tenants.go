package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/tenancy"
)

const (
	// tenantSetting is the parameter that holds the tenant while a statement of
	// it runs.
	tenantSetting = "app.country"
	// tenantRole is what the tenants' handle connects as, auditorRole what it is
	// under Bypass.
	tenantRole, auditorRole = "demo_app", "demo_auditor"
	// callersEach is how many callers a tenant has.
	callersEach = 2
	// tripsByHand is what begin, set_config, a statement and commit take.
	tripsByHand = 4

	opTenantRead  = "Tenant: a place by its id"
	opTenantWrite = "Tenant: an update by id"
)

// tenantCountries are the tenants: the places of a country belong to it.
var tenantCountries = []string{"FI", "NG", "PT", "TH", "VN", "ZA"}

// guideTables are as anybody would write them. The column country says whose a
// row is, which only the policies know.
var guideTables = []string{
	`create table guide (like cities including indexes, visits bigint not null default 0)`,
	`create role ` + tenantRole + ` login`,
	`create role ` + auditorRole + ` bypassrls`,
	`grant ` + auditorRole + ` to ` + tenantRole,
	`grant select, insert, update, delete on guide to ` + tenantRole + `, ` + auditorRole,
}

// tenant is one of those who share the table.
type tenant struct {
	country string
	// places are its own, foreign those of the others.
	places, foreign []place
	statements      atomic.Int64
	writes          atomic.Int64 // of its own rows
	tries, breaches atomic.Int64 // at rows of others
}

// tenants has several tenants share a table and a pool that is smaller than
// their number, and looks whether one of them ever saw or changed another's row.
func tenants(ctx context.Context, e *environment) error {
	if err := makeGuide(ctx, e); err != nil {
		return err
	}
	heard := &reasons{heard: map[string]int{}}
	db, err := e.openAs(ctx, tenantRole, "tenants", e.cluster.Primary(), appName+"-tenants",
		pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: smallSize}), pgkeel.WithHooks(heard.hook()),
		pgkeel.WithTenancy(tenancy.RLS(tenantSetting, tenancy.TenantColumn("country"), tenancy.BypassRole(auditorRole))))
	if err != nil {
		return err
	}
	all := shareOut(e.places)
	if err := shareTheTable(ctx, e, db, all); err != nil {
		return err
	}
	if err := ownRowsOnly(ctx, e, db, all); err != nil {
		return err
	}
	if err := nobody(ctx, e, db); err != nil {
		return fmt.Errorf("without a tenant: %w", err)
	}
	return audited(ctx, e, db, heard)
}

// makeGuide copies the places of some countries into a table of their own and
// puts the policies on it.
func makeGuide(ctx context.Context, e *environment) error {
	for _, sql := range guideTables {
		if _, err := e.db.Exec(ctx, sql); err != nil {
			return fmt.Errorf("make the tenants' table: %w", err)
		}
	}
	tag, err := e.db.Exec(ctx, `insert into guide select * from cities where country = any($1)`, tenantCountries)
	if err != nil {
		return fmt.Errorf("fill the tenants' table: %w", err)
	}
	options := tenancy.PolicyOptions{Setting: tenantSetting, Column: "country", Tables: []string{"guide"}}
	plan, err := tenancy.Policies(ctx, e.db, options)
	if err != nil {
		return err
	}
	if err := plan.Apply(ctx); err != nil {
		return err
	}
	e.out.line("%s places of %d countries in one table; the policies that were missing:", count(tag.RowsAffected()), len(tenantCountries))
	for _, sql := range plan.Statements() {
		e.out.quote("%s", sql)
	}
	again, err := tenancy.Policies(ctx, e.db, options)
	e.check(ctx, err == nil && len(plan.Statements()) > 0 && len(again.Statements()) == 0,
		"applied, they leave nothing to do%s", because(err))
	return err
}

// shareOut gives each tenant its places.
func shareOut(places []place) []*tenant {
	all := make([]*tenant, len(tenantCountries))
	for i, country := range tenantCountries {
		all[i] = &tenant{country: country}
	}
	for _, p := range places {
		if !slices.Contains(tenantCountries, p.Country) {
			continue
		}
		for _, t := range all {
			if t.country == p.Country {
				t.places = append(t.places, p)
			} else {
				t.foreign = append(t.foreign, p)
			}
		}
	}
	return all
}

// shareTheTable lets all tenants at the table at once, and prints what each did.
func shareTheTable(ctx context.Context, e *environment, db *pgkeel.DB, all []*tenant) error {
	watches := make([]stopwatch, len(all)*callersEach)
	begin := time.Now()
	err := together(ctx, len(watches), func(ctx context.Context, i int) error {
		watches[i] = stopwatch{}
		t := all[i%len(all)]
		ctx = pgkeel.WithTenantID(ctx, t.country)
		for n := 0; n == 0 || time.Since(begin) < e.slice; n++ {
			if err := t.work(ctx, db, watches[i], n); err != nil {
				return fmt.Errorf("tenant %s: %w", t.country, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	over := time.Since(begin)
	e.timings.collect(over, watches, opTenantRead, opTenantWrite)
	e.out.line("%d tenants, %d callers each, on %d connections:", len(all), callersEach, smallSize)
	return compareWithOwner(ctx, e, all, over)
}

// work does the nth operation of a tenant: half of them go for a row of
// another, whose id it knows.
func (t *tenant) work(ctx context.Context, db *pgkeel.DB, watch stopwatch, n int) error {
	t.statements.Add(1)
	foreign := n%2 == 1
	from := t.places
	if foreign {
		from = t.foreign
		t.tries.Add(1)
	}
	wanted := anyOf(from)
	if n%4 < 2 {
		return watch.time(opTenantRead, func() error { return t.read(ctx, db, wanted, foreign) })
	}
	return watch.time(opTenantWrite, func() error { return t.write(ctx, db, wanted, foreign) })
}

func (t *tenant) read(ctx context.Context, db *pgkeel.DB, wanted place, foreign bool) error {
	got, err := pgkeel.One[place](ctx, db, `select id, name, country, admin1, admin2, lat, lng from guide where id = $1`, wanted.ID)
	switch {
	case foreign && errors.Is(err, pgx.ErrNoRows):
		return nil
	case foreign && err == nil:
		t.breaches.Add(1)
		return nil
	case err == nil && got != wanted:
		return fmt.Errorf("%w: %v instead of %v", errDifferent, got, wanted)
	default:
		return err
	}
}

func (t *tenant) write(ctx context.Context, db *pgkeel.DB, wanted place, foreign bool) error {
	tag, err := db.Exec(ctx, `update guide set visits = visits + 1 where id = $1`, wanted.ID)
	switch {
	case err != nil:
		return err
	case foreign:
		t.breaches.Add(tag.RowsAffected())
		return nil
	default:
		t.writes.Add(1)
		return sameCount(nil, int(tag.RowsAffected()), 1)
	}
}

// compareWithOwner asks the owner, whom no policy binds, what became of the
// table.
func compareWithOwner(ctx context.Context, e *environment, all []*tenant, over time.Duration) error {
	type owned struct {
		Country      string
		Rows, Visits int64
	}
	found, err := pgkeel.All[owned](ctx, e.db,
		`select country, count(*) as rows, sum(visits)::bigint as visits from guide group by country order by country`)
	if err != nil {
		return err
	}
	var rows [][]string
	var statements, tries, breaches int64
	same := len(found) == len(all)
	for i, t := range all {
		same = same && found[i] == owned{t.country, int64(len(t.places)), t.writes.Load()}
		statements, tries, breaches = statements+t.statements.Load(), tries+t.tries.Load(), breaches+t.breaches.Load()
		rows = append(rows, []string{
			t.country, count(len(t.places)), count(t.statements.Load()), count(int64(float64(t.statements.Load()) / over.Seconds())),
			count(t.writes.Load()), count(t.tries.Load()), count(t.breaches.Load()),
		})
	}
	e.out.table([]string{"tenant", "rows", "statements", "a second", "own rows written", "tries at others'", "succeeded"}, rows)
	e.out.line("each is one round trip; with begin, set_config and commit around it there would be %s more",
		count((tripsByHand-1)*statements))
	e.check(ctx, breaches == 0 && tries > 0, "no tenant ever read or changed a row of another, in %s tries by its id", count(tries))
	e.check(ctx, same, "the owner, whom no policy binds, counts the rows and the writes that each tenant should have")
	return nil
}

// ownRowsOnly asks for everything, without any WHERE, and tries to give a row
// away.
func ownRowsOnly(ctx context.Context, e *environment, db *pgkeel.DB, all []*tenant) error {
	for _, t := range all {
		own := pgkeel.WithTenantID(ctx, t.country)
		seen, err := db.QueryCount(own, `select count(*) from guide`)
		if err := sameCount(err, int(seen), len(t.places)); err != nil {
			return fmt.Errorf("tenant %s: %w", t.country, err)
		}
	}
	one, other := all[0], all[1]
	_, err := db.Exec(pgkeel.WithTenantID(ctx, one.country), `update guide set country = $1`, other.country)
	e.out.line("%s tries to give all that it has to %s:", one.country, other.country)
	e.out.quote("%v", err)
	var pg *pgkeel.PGError
	e.check(ctx, errors.As(err, &pg) && pg.Code == "42501", "it is refused; and a count without a WHERE gave each tenant its own rows")
	return nil
}

// nobody sends a statement without a tenant, once some have used the pool.
func nobody(ctx context.Context, e *environment, db *pgkeel.DB) error {
	before := db.Stats().Acquires
	_, err := db.Exec(ctx, `delete from guide`)
	e.out.line("a statement without a tenant:")
	e.out.quote("%v", err)
	e.check(ctx, errors.Is(err, tenancy.ErrNoTenant) && pgkeel.OutcomeOf(err) == pgkeel.OutcomeNotSent && db.Stats().Acquires == before,
		"it is refused before a connection was asked for")
	return cleanTenants(ctx, e, db)
}

// cleanTenants looks into all the sessions of the pool at once. Under Bypass
// nothing is put into the tenant's parameter, so what is there was left behind.
func cleanTenants(ctx context.Context, e *environment, db *pgkeel.DB) error {
	ctx = tenancy.Bypass(ctx, "demo: look for what tenants left behind")
	clean := 0
	for range smallSize {
		conn, err := db.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		left, err := pgkeel.One[string](ctx, conn, `select coalesce(current_setting($1, true), '')`, tenantSetting)
		if err != nil {
			return err
		}
		if left == "" {
			clean++
		}
	}
	e.check(ctx, clean == smallSize, "and no tenant was left behind in any of the %d connections", smallSize)
	return nil
}

// audited looks at the rows of all tenants, for a reason that a hook writes down.
func audited(ctx context.Context, e *environment, db *pgkeel.DB, heard *reasons) error {
	const reason = "demo: the yearly count"
	_, err := db.Exec(tenancy.Bypass(ctx, " "), `select`)
	refused := err != nil && pgkeel.OutcomeOf(err) == pgkeel.OutcomeNotSent
	n, err := db.QueryCount(tenancy.Bypass(ctx, reason), `select count(*) from guide`)
	if err != nil {
		return err
	}
	total, err := e.db.QueryCount(ctx, `select count(*) from guide`)
	e.check(ctx, err == nil && n == total && heard.times(reason) == 1 && refused,
		"under Bypass all %s rows are there, a hook heard of it (%q), and without a reason it is refused%s", count(n), reason, because(err))
	return err
}

// reasons are why a handle's tenancy was bypassed, as its hook heard it.
type reasons struct {
	mu    sync.Mutex
	heard map[string]int
}

func (r *reasons) hook() pgkeel.Hook {
	return pgkeel.Hook{
		Name:   "audit",
		Events: []pgkeel.HookEvent{pgkeel.EventQuery, pgkeel.EventExec},
		After: func(ctx context.Context, _ *pgkeel.HookInfo) {
			if reason, ok := tenancy.BypassReason(ctx); ok {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.heard[reason]++
			}
		},
	}
}

func (r *reasons) times(reason string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard[reason]
}
