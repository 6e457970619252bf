package tenancy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// DefaultMigrateParallel is how many schemas are migrated at a time.
const DefaultMigrateParallel = 4

// ErrMigrationChanged means that a file was changed after it had been applied.
var ErrMigrationChanged = errors.New("the file was changed after it had been applied; " +
	"put it back as it was, and make the change in a new file")

// MigrateOptions say what [Schemas.Migrate] does. FS or Func, or both, are
// needed.
type MigrateOptions struct {
	// FS has the files: every *.sql in its root, in the order of their names.
	// Each runs in a transaction of its own, whose search path is the tenant's
	// schema and the shared ones, so it can use unqualified names but no
	// statement that PostgreSQL refuses there (CREATE INDEX CONCURRENTLY), or
	// that ends the transaction.
	FS fs.FS
	// Func is run after the files, in a transaction like theirs, for what SQL
	// alone cannot do. It may run for several schemas at the same time.
	Func func(ctx context.Context, tx providers.Querier, schema TenantSchema) error
	// FuncName stands for Func in the ledger: it runs once for each schema and
	// name.
	FuncName string
	// Tenants are those to migrate. Default: all.
	Tenants []string
	// Parallel is how many schemas are migrated at a time, each on a connection, so
	// never more than the pool has. Default: 4.
	Parallel int
	// StopOnError begins no other schema after one has failed. Default: the
	// others are migrated.
	StopOnError bool
	// Progress is told after each schema, never by two goroutines at a time.
	Progress func(MigrateProgress)
}

// MigrateProgress is how far it is.
type MigrateProgress struct {
	// Tenant is the one whose schema is done, and Err why it failed.
	Tenant string
	Err    error
	// Total is how many schemas there are to migrate, Done how many of these
	// are, and Failed how many could not be.
	Total, Done, Failed int
	// Elapsed is the time since the beginning.
	Elapsed time.Duration
}

// MigrateReport is what a migration came to.
type MigrateReport struct {
	// Total is how many schemas were asked for. UpToDate of them had nothing to
	// do, Migrated had, Failed could not, and the rest was not begun.
	Total, UpToDate, Migrated, Failed int
}

// MigrateError says which tenants could not be migrated.
type MigrateError struct {
	MigrateReport
	// Tenants are those that failed, in the order in which they did.
	Tenants []*TenantError
	// Err is why the rest was not begun, if it was not: the context's error.
	Err error
}

// TenantError is why one tenant failed.
type TenantError struct {
	// TenantSchema is whose.
	TenantSchema
	// File is the one that failed, or FuncName. Those before it are applied.
	File string
	// Err is the reason.
	Err error
}

func (e *TenantError) Error() string {
	return fmt.Sprintf("tenant %q, schema %q, %s (%s): %v", e.Tenant, e.Schema, cmp.Or(e.File, "ledger"), providers.OutcomeOf(e.Err), e.Err)
}

// Unwrap returns the reason.
func (e *TenantError) Unwrap() error { return e.Err }

// shownTenants is how many an error's text names.
const shownTenants = 5

func (e *MigrateError) Error() string {
	left := e.Total - e.UpToDate - e.Migrated - e.Failed
	var b strings.Builder
	fmt.Fprintf(&b, "pgkeel: tenancy: %d of %d schemas could not be migrated, %d were not begun, the others are up to date; "+
		"each file is a transaction: mend what failed and run it again, which goes on from there", e.Failed, e.Total, left)
	if e.Err != nil {
		fmt.Fprintf(&b, "\n\tstopped: %v", e.Err)
	}
	for i, t := range e.Tenants {
		if i == shownTenants {
			fmt.Fprintf(&b, "\n\tand %d more", len(e.Tenants)-i)
			break
		}
		b.WriteString("\n\t" + t.Error())
	}
	return b.String()
}

// Unwrap returns the errors of the tenants and of the context.
func (e *MigrateError) Unwrap() []error {
	var all []error
	for _, t := range e.Tenants {
		all = append(all, t)
	}
	if e.Err != nil {
		all = append(all, e.Err)
	}
	return all
}

// Migrate brings the schemas up to date, several at a time. What was applied is
// in the table pgkeel.migrations, written in the transaction of the file itself,
// so it may be interrupted and run again at any time: it goes on where it was.
// Two at the same time share the work, as each file takes a lock on its schema.
// A file that is added between others is applied as well.
//
// An error is a [*MigrateError] with each tenant that failed, or, if nothing was
// begun, one that says why.
func (s *Schemas) Migrate(ctx context.Context, o MigrateOptions) (MigrateReport, error) {
	ctx = bypassFor(ctx, "tenancy: migrate schemas")
	steps, err := o.steps()
	if err != nil {
		return MigrateReport{}, err
	}
	if err := s.prepare(ctx); err != nil {
		return MigrateReport{}, err
	}
	todo, report, err := s.pending(ctx, o.Tenants, steps)
	if err != nil {
		return MigrateReport{}, fmt.Errorf("pgkeel: tenancy: what is to be migrated could not be read, so nothing was: %w", err)
	}
	r := &migration{schemas: s, options: o, steps: steps, todo: todo, began: time.Now(), report: report}
	return r.run(ctx)
}

// A step is a file or the function.
type step struct {
	name     string
	checksum string
	run      func(ctx context.Context, tx providers.Querier, schema TenantSchema) error
}

func (o *MigrateOptions) steps() ([]step, error) {
	var c confinement
	c.fault(o.FS == nil && o.Func == nil, "Migrate", "there is nothing to do; give it FS or Func")
	c.fault(o.Parallel < 0, "Migrate.Parallel", "%d is negative; leave it 0 for %d", o.Parallel, DefaultMigrateParallel)
	c.fault((o.Func == nil) != (o.FuncName == ""), "Migrate.FuncName", "Func and FuncName belong together; give both or none")
	var steps []step
	if o.FS != nil {
		files, err := fileSteps(o.FS)
		c.fault(err != nil, "Migrate.FS", "cannot be read: %v", err)
		c.fault(err == nil && len(files) == 0, "Migrate.FS", "has no *.sql in its root; use fs.Sub for a folder below")
		steps = files
	}
	if o.Func != nil {
		c.fault(slices.ContainsFunc(steps, func(s step) bool { return s.name == o.FuncName }), "Migrate.FuncName", "%q is a file", o.FuncName)
		steps = append(steps, step{name: o.FuncName, run: o.Func})
	}
	return steps, errors.Join(c.faults...)
}

func fileSteps(files fs.FS) ([]step, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	steps := make([]step, len(names))
	for i, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		sql := string(text)
		steps[i] = step{name, hex.EncodeToString(sum[:]), func(ctx context.Context, tx providers.Querier, _ TenantSchema) error {
			return execScript(ctx, tx, sql)
		}}
	}
	return steps, nil
}

// execScript runs any number of statements. PostgreSQL takes more than one only by
// themselves, without the settings of a handle's layers (what is left of a
// deadline), so it goes around these.
func execScript(ctx context.Context, tx providers.Querier, sql string) error {
	if u, ok := tx.(interface{ Unwrap() pgx.Tx }); ok {
		if unwrapped := u.Unwrap(); unwrapped != nil {
			tx = unwrapped
		}
	}
	_, err := tx.Exec(ctx, sql)
	return err
}

// pending returns the schemas in which a step was not applied as it is now.
func (s *Schemas) pending(ctx context.Context, tenants []string, steps []step) ([]TenantSchema, MigrateReport, error) {
	all, err := s.list(ctx)
	if err != nil {
		return nil, MigrateReport{}, err
	}
	if tenants != nil {
		if all, err = selected(all, tenants); err != nil {
			return nil, MigrateReport{}, err
		}
	}
	finished, err := s.finished(ctx, steps)
	if err != nil {
		return nil, MigrateReport{}, err
	}
	todo := slices.DeleteFunc(slices.Clone(all), func(t TenantSchema) bool { return finished[t.Schema] })
	return todo, MigrateReport{Total: len(all), UpToDate: len(all) - len(todo)}, nil
}

func selected(all []TenantSchema, tenants []string) ([]TenantSchema, error) {
	wanted := make(map[string]bool, len(tenants))
	for _, id := range tenants {
		wanted[id] = true
	}
	all = slices.DeleteFunc(all, func(t TenantSchema) bool {
		found := wanted[t.Tenant]
		delete(wanted, t.Tenant)
		return !found
	})
	for id := range wanted {
		return nil, fmt.Errorf("tenant %q has no schema; make it with Create", cut(id))
	}
	return all, nil
}

// finished tells the schemas to which all steps are applied. In one query, so
// that those who run it at every start pay next to nothing for thousands.
func (s *Schemas) finished(ctx context.Context, steps []step) (map[string]bool, error) {
	sums := make(map[string]string, len(steps))
	for _, st := range steps {
		sums[st.name] = st.checksum
	}
	asked, err := json.Marshal(sums) // not as arrays, which not every provider can send
	if err != nil {
		return nil, err
	}
	rows, err := s.db.Query(ctx, `select m.schema from pgkeel.migrations m
		join json_each_text($1::text::json) asked on asked.key = m.file and asked.value = m.checksum
		group by m.schema having count(*) = $2::bigint`, string(asked), len(sums))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	finished := map[string]bool{}
	for rows.Next() {
		var schema string
		if err := rows.Scan(&schema); err != nil {
			return nil, err
		}
		finished[schema] = true
	}
	return finished, rows.Err()
}

// migration is one run of Migrate.
type migration struct {
	schemas *Schemas
	options MigrateOptions
	steps   []step
	todo    []TenantSchema
	began   time.Time

	mu     sync.Mutex
	next   int
	report MigrateReport
	failed []*TenantError
}

func (r *migration) run(ctx context.Context) (MigrateReport, error) {
	var workers sync.WaitGroup
	for range min(r.parallel(), len(r.todo)) {
		workers.Go(func() {
			for t, ok := r.take(ctx); ok; t, ok = r.take(ctx) {
				r.done(t, r.migrate(ctx, t))
			}
		})
	}
	workers.Wait()
	if len(r.failed) == 0 && r.next == len(r.todo) {
		return r.report, nil
	}
	err := &MigrateError{MigrateReport: r.report, Tenants: r.failed}
	if r.next < len(r.todo) {
		err.Err = ctx.Err()
	}
	return r.report, err
}

// parallel keeps workers from waiting for each other's connections, for longer
// than the pool lets anybody wait.
func (r *migration) parallel() int {
	n := cmp.Or(r.options.Parallel, DefaultMigrateParallel)
	if pool, ok := r.schemas.db.(interface{ Stats() providers.PoolStats }); ok {
		if most := int(pool.Stats().MaxSize); most > 0 {
			n = min(n, most)
		}
	}
	return n
}

// take returns the next schema.
func (r *migration) take(ctx context.Context) (TenantSchema, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == len(r.todo) || ctx.Err() != nil || r.options.StopOnError && len(r.failed) > 0 {
		return TenantSchema{}, false
	}
	r.next++
	return r.todo[r.next-1], true
}

// done counts a schema, and tells.
func (r *migration) done(t TenantSchema, err *TenantError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := MigrateProgress{Tenant: t.Tenant, Total: len(r.todo), Elapsed: time.Since(r.began)}
	if err != nil {
		p.Err = err
		r.report.Failed++
		r.failed = append(r.failed, err)
	} else {
		r.report.Migrated++
	}
	p.Done, p.Failed = r.report.Migrated, r.report.Failed
	if r.options.Progress != nil {
		r.options.Progress(p)
	}
}

// migrate applies the steps that are missing, each in its own transaction.
func (r *migration) migrate(ctx context.Context, t TenantSchema) *TenantError {
	applied, err := r.applied(ctx, t.Schema)
	if err != nil {
		return &TenantError{TenantSchema: t, Err: err}
	}
	for _, st := range r.steps { // all of them, before anything is applied on top
		if sum, ok := applied[st.name]; ok && sum != st.checksum {
			return &TenantError{TenantSchema: t, File: st.name, Err: &notSentError{ErrMigrationChanged}}
		}
	}
	for _, st := range r.steps {
		if _, ok := applied[st.name]; ok {
			continue
		}
		if err := r.schemas.inTx(ctx, func(tx Tx) error { return r.apply(ctx, tx, t, st) }); err != nil {
			return &TenantError{TenantSchema: t, File: st.name, Err: err}
		}
	}
	return nil
}

func (r *migration) applied(ctx context.Context, schema string) (map[string]string, error) {
	rows, err := r.schemas.db.Query(ctx, `select file, checksum from pgkeel.migrations where schema = $1`, schema)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	applied := map[string]string{}
	for rows.Next() {
		var file, sum string
		if err := rows.Scan(&file, &sum); err != nil {
			return nil, err
		}
		applied[file] = sum
	}
	return applied, rows.Err()
}

// apply runs a step in a transaction, unless somebody else did so in the
// meantime.
func (r *migration) apply(ctx context.Context, tx Tx, t TenantSchema, st step) error {
	if _, err := tx.Exec(ctx, lockSQL, t.Schema); err != nil {
		return err
	}
	// A statement of its own, so that its snapshot is younger than the lock.
	var there, applied bool
	var xid string
	err := tx.QueryRow(ctx, `select exists (select from pg_catalog.pg_namespace where nspname = $1::text),
		exists (select from pgkeel.migrations where schema = $1::text and file = $2),
		pg_current_xact_id()::text, set_config('search_path', $3, true)`,
		t.Schema, st.name, searchPath(append([]string{t.Schema}, r.schemas.mode.shared...)...)).Scan(&there, &applied, &xid, new(string))
	switch {
	case err != nil:
		return err
	case !there: // what it creates would land in a shared schema
		return errors.New("the schema does not exist; make it with Create")
	case applied:
		return nil
	}
	if err := st.run(ctx, tx, t); err != nil {
		return err
	}
	// If the step has ended the transaction, this is another one.
	tag, err := tx.Exec(ctx, `insert into pgkeel.migrations (schema, file, checksum)
		select $1, $2, $3 where pg_current_xact_id()::text = $4`, t.Schema, st.name, st.checksum, xid)
	if err == nil && tag.RowsAffected() == 0 {
		err = errEndedTx
	}
	return err
}

// errEndedTx is the error of a step whose transaction is not the one it began in.
var errEndedTx = errors.New("it ended its transaction, so that what it did may stay, without a note in the ledger; " +
	"leave BEGIN, COMMIT and ROLLBACK out")
