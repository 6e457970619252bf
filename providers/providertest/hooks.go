package providertest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

var hookTests = []test{
	{name: "Order", run: testHookOrder},
	{name: "Query", run: testHookQuery},
	{name: "Transaction", run: testHookTransaction},
	{name: "Error", run: testHookError},
	{name: "Context", run: testHookContext},
	{name: "Panic", run: testHookPanic},
	{name: "Stats", run: testStats},
}

// sightings are what hooks saw.
type sightings struct {
	mu   sync.Mutex
	log  []string
	info []providers.HookInfo
}

func (s *sightings) note(line string, info *providers.HookInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, line)
	s.info = append(s.info, *info)
}

func (s *sightings) take() (log []string, info []providers.HookInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	log, info = s.log, s.info
	s.log, s.info = nil, nil
	return log, info
}

// hook notes before and after of some events under its name.
func (s *sightings) hook(name string, events ...providers.HookEvent) providers.Hook {
	return providers.Hook{
		Name: name, Events: events,
		Before: func(ctx context.Context, info *providers.HookInfo) context.Context {
			s.note(strings.TrimSpace("before "+info.Event.String()+" "+name), info)
			return ctx
		},
		After: func(_ context.Context, info *providers.HookInfo) {
			s.note(strings.TrimSpace("after "+info.Event.String()+" "+name), info)
		},
	}
}

// unnamed is hook with a name that is left out of the notes.
func (s *sightings) unnamed(events ...providers.HookEvent) providers.Hook {
	h := s.hook("", events...)
	h.Name = "unnamed"
	return h
}

// hooked opens a pool of one connection, already made, whose hooks are watched
// from here on.
func (s suite) hooked(t *testing.T, seen *sightings, hooks ...providers.Hook) providers.Pool {
	t.Helper()
	manager, err := providers.NewHookManager(hooks...)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.config(t, 1)
	cfg.Hooks = manager
	p := s.openWith(t, cfg)
	mustExec(t, p, table)
	seen.take()
	return p
}

func testHookOrder(t *testing.T, s suite) {
	seen := &sightings{}
	events := []providers.HookEvent{providers.EventAcquire, providers.EventRelease, providers.EventExec}
	p := s.hooked(t, seen, seen.hook("a", events...), seen.hook("b", events...))
	mustExec(t, p, "select 1")
	log, _ := seen.take()
	var want []string
	for _, step := range []string{"before acquire", "after acquire", "before exec", "after exec", "before release", "after release"} {
		if strings.HasPrefix(step, "before") {
			want = append(want, step+" a", step+" b")
		} else {
			want = append(want, step+" b", step+" a") // unwound in reverse
		}
	}
	if !slices.Equal(log, want) {
		t.Errorf("got\n%q\nwant\n%q", log, want)
	}
}

func testHookQuery(t *testing.T, s suite) {
	seen := &sightings{}
	p := s.hooked(t, seen, seen.unnamed(providers.EventQuery, providers.EventExec))
	const sql = "select n, $1::text from generate_series(1, 3) n"
	rows, err := p.Query(t.Context(), sql, "secret")
	if err != nil {
		t.Fatal(err)
	}
	if log, _ := seen.take(); !slices.Equal(log, []string{"before query"}) {
		t.Errorf("a query ends when its rows are closed: %q", log)
	}
	for rows.Next() {
		continue
	}
	rows.Close()
	log, info := seen.take()
	if !slices.Equal(log, []string{"after query"}) || info[0].SQL != sql || info[0].Rows != 3 || info[0].Duration <= 0 || info[0].Err != nil {
		t.Errorf("%q %+v", log, info)
	}
	_ = value[int](t, p, "select 1")
	if err := runExec(t, p, "insert into t values (1), (2)", "app.x", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := runValue[int](t, p, "select 1", "app.x", "1"); err != nil {
		t.Fatal(err)
	}
	log, info = seen.take()
	if want := []string{"before query", "after query", "before exec", "after exec", "before query", "after query"}; !slices.Equal(log, want) {
		t.Fatalf("the settings of a call are no statements of the caller's: %q, want %q", log, want)
	}
	if info[3].Rows != 2 || info[3].SQL != "insert into t values (1), (2)" {
		t.Errorf("%+v", info[3])
	}
}

func testHookTransaction(t *testing.T, s suite) {
	seen := &sightings{}
	p := s.hooked(t, seen, seen.unnamed(providers.EventBegin, providers.EventCommit, providers.EventRollback, providers.EventSavepoint, providers.EventError))
	tx := begin(t, p, providers.TxOptions{})
	commit(t, savepoint(t, tx, "a"))
	rollback(t, savepoint(t, tx, "b"))
	commit(t, tx)
	rollback(t, begin(t, p, providers.TxOptions{}))
	log, info := seen.take()
	var got []string
	for i, line := range log {
		if strings.HasPrefix(line, "after") {
			got = append(got, strings.TrimSpace(line[len("after "):]+" "+info[i].Name))
		}
	}
	want := []string{"begin", "savepoint savepoint", "savepoint release", "savepoint savepoint", "savepoint rollback to", "commit", "begin", "rollback"}
	if !slices.Equal(got, want) || len(log) != 2*len(want) {
		t.Errorf("%q, want %q", got, want)
	}
	tx = begin(t, p, providers.TxOptions{})
	_ = execError(t, tx, "select 1 / 0")
	if tx.Commit(t.Context()) == nil {
		t.Error("committed")
	}
	_, info = seen.take()
	if last := info[len(info)-1]; last.Event != providers.EventError || last.Operation != providers.EventCommit || last.Err == nil {
		t.Errorf("%+v", info)
	}
}

func testHookError(t *testing.T, s suite) {
	seen := &sightings{}
	p := s.hooked(t, seen, seen.unnamed(providers.EventError))
	for operation, fail := range map[providers.HookEvent]func() error{
		providers.EventExec:  func() error { return execError(t, p, "select 1 / $1::int", 0) },
		providers.EventQuery: func() error { return queryError(t.Context(), p, "select 1 / $1::int", 0) },
	} {
		err := fail()
		_, info := seen.take()
		if len(info) != 1 || info[0].Event != providers.EventError || info[0].Operation != operation || info[0].Err == nil {
			t.Fatalf("%s: %+v", operation, info)
		}
		wantCode(t, "caller", err, "22012")
		wantCode(t, "hook", info[0].Err, "22012")
	}
	mustExec(t, p, "select 1")
	if log, _ := seen.take(); len(log) != 0 {
		t.Errorf("%q", log)
	}
}

func testHookContext(t *testing.T, s suite) {
	type key struct{}
	seen := &sightings{}
	var got any
	p := s.hooked(t, seen, seen.unnamed(providers.EventExec), providers.Hook{
		Name: "values", Events: []providers.HookEvent{providers.EventExec},
		Before: func(ctx context.Context, _ *providers.HookInfo) context.Context {
			return context.WithValue(ctx, key{}, "carried")
		},
		After: func(ctx context.Context, _ *providers.HookInfo) { got = ctx.Value(key{}) },
	})
	ctx := providers.WithUserID(providers.WithCorrelationID(providers.WithTenantID(t.Context(), "t"), "c"), "u")
	if _, err := p.Exec(ctx, "select 1"); err != nil {
		t.Fatal(err)
	}
	_, info := seen.take()
	if len(info) != 2 || info[0].TenantID != "t" || info[0].CorrelationID != "c" || info[1].UserID != "u" || info[0].Start.IsZero() {
		t.Errorf("%+v", info)
	}
	if got != "carried" {
		t.Errorf("After got the value %v", got)
	}
}

func testHookPanic(t *testing.T, s suite) {
	p := s.hooked(t, &sightings{}, providers.Hook{
		Name: "panics", Events: []providers.HookEvent{providers.EventQuery},
		After: func(context.Context, *providers.HookInfo) { panic("a hook's own fault") },
	})
	if got := value[int](t, p, "select 7"); got != 7 {
		t.Errorf("%d", got)
	}
	if n := p.Stats().HookPanics; n != 1 {
		t.Errorf("%d panics counted", n)
	}
}

func testStats(t *testing.T, s suite) {
	p := s.open(t, 3)
	before := p.Stats()
	a, b := acquire(t, p), acquire(t, p)
	if st := p.Stats(); st.MaxSize != 3 || st.InUse != 2 || st.Open < 2 || st.Acquires-before.Acquires != 2 || st.Dialing != 0 {
		t.Errorf("%+v", st)
	}
	a.Release()
	b.Release()
	eventually(t, "all are idle", func() bool { st := p.Stats(); return st.InUse == 0 && st.Idle == st.Open && st.Open > 0 })
	st := p.Stats()
	if st.Connects > 0 && st.Connects-st.Closed != int64(st.Open) {
		t.Errorf("%d made and %d closed make %d", st.Connects, st.Closed, st.Open)
	}
	if st.ConnectErrors != 0 || st.Waiters != 0 || st.OldestWait != 0 || st.Leaks != 0 || st.HookPanics != 0 {
		t.Errorf("%+v", st)
	}
}
