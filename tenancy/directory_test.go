package tenancy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// newCache makes a cache of a directory whose answers count for a minute, and
// tells of what it found unused.
func newCache(t *testing.T, d Directory) (c *directoryCache, unused func() string) {
	var mu sync.Mutex
	var gone []string
	life, end := context.WithCancel(context.Background())
	var background sync.WaitGroup
	t.Cleanup(func() { end(); background.Wait() })
	c = &directoryCache{
		directory: d, ttl: time.Minute, timeout: 5 * time.Second, life: life, background: &background,
		entries: map[string]*directoryEntry{}, uses: map[string]int{},
		unused: func(dsn string) { mu.Lock(); defer mu.Unlock(); gone = append(gone, dsn) },
	}
	return c, func() string {
		synctest.Wait() // it is told behind the answer
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(gone, ", ")
	}
}

func mustFind(t *testing.T, c *directoryCache, tenant, want string) {
	t.Helper()
	if got, err := c.find(t.Context(), tenant); got != want || err != nil {
		t.Errorf("%s is at %q: %v; want %q", tenant, got, err, want)
	}
}

func TestDirectoryAnswersAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTowns(map[string]string{"a": "host=one"})
		c, unused := newCache(t, d)
		step := func(after time.Duration, want string, asked int) {
			t.Helper()
			<-time.After(after)
			mustFind(t, c, "a", want)
			synctest.Wait() // for what is fetched in the background
			if n := d.asked("a"); n != asked {
				t.Errorf("%d lookups, want %d", n, asked)
			}
		}
		step(0, "host=one", 1)
		d.set("a", "host=two")
		step(29*time.Second, "host=one", 1) // the first half of its time
		step(2*time.Second, "host=one", 2)  // the second: a new one is fetched meanwhile
		step(0, "host=two", 2)
		if got := unused(); got != "host=one" {
			t.Errorf("unused: %q", got)
		}
		d.set("a", "host=three")
		step(2*time.Minute, "host=three", 3) // after its time: nobody gets the old one
		if c.stats.moves != 2 {
			t.Errorf("%d moves", c.stats.moves)
		}
	})
}

func TestOneLookupForManyCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTowns(map[string]string{"a": "host=one"})
		answer := make(chan struct{})
		c, _ := newCache(t, DirectoryFunc(func(ctx context.Context, tenant string) (string, error) {
			<-answer
			return d.Lookup(ctx, tenant)
		}))
		// The first caller's end is not that of the lookup.
		first, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := c.find(first, "a")
			failed <- err
		}()
		synctest.Wait()
		var work sync.WaitGroup
		for range 100 {
			work.Go(func() { mustFind(t, c, "a", "host=one") })
		}
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Error(err)
		}
		close(answer)
		work.Wait()
		if n := d.asked("a"); n != 1 {
			t.Errorf("%d lookups", n)
		}
	})
}

func TestAFailingDirectoryLeavesWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTowns(map[string]string{"a": "host=one"})
		c, _ := newCache(t, d)
		mustFind(t, c, "a", "host=one")
		down := errors.New("cannot reach postgres://admin:geheim@control/db")
		d.fail(down)
		for range 3 {
			<-time.After(2 * time.Minute)
			mustFind(t, c, "a", "host=one")
			synctest.Wait()
		}
		_, err := c.find(t.Context(), "b")
		if !errors.Is(err, down) || errors.Is(err, ErrUnknownTenant) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
			t.Errorf("one that is not known: %v", err)
		}
		if strings.Contains(err.Error(), "geheim") {
			t.Errorf("a secret: %v", err)
		}
		// It is not asked more than once a second for one that is known.
		asked := d.asked("a")
		<-time.After(2 * time.Second)
		for range 10 {
			mustFind(t, c, "a", "host=one")
			synctest.Wait()
		}
		if n := d.asked("a") - asked; n != 1 {
			t.Errorf("asked %d times", n)
		}
		if c.stats.stale == 0 || c.stats.failures <= c.stats.stale {
			t.Errorf("%+v", c.stats)
		}
		d.fail(nil)
		d.set("a", "host=two")
		<-time.After(2 * time.Second)
		mustFind(t, c, "a", "host=one") // fetches
		synctest.Wait()
		mustFind(t, c, "a", "host=two")
	})
}

func TestADirectoryThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := make(chan struct{})
		defer close(never)
		answers := true
		c, _ := newCache(t, DirectoryFunc(func(context.Context, string) (string, error) {
			if answers {
				return "host=one", nil
			}
			<-never // whatever its context says
			return "", nil
		}))
		mustFind(t, c, "a", "host=one")
		answers = false
		<-time.After(2 * time.Minute)
		began := time.Now()
		mustFind(t, c, "a", "host=one")
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it took %s", took)
		}
		mustFind(t, c, "a", "host=one")
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("the next one waited as well: %s", took)
		}
		_, err := c.find(t.Context(), "b")
		if err == nil || !strings.Contains(err.Error(), "did not answer within 5s") {
			t.Error(err)
		}
	})
}

func TestUnknownTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTowns(map[string]string{"a": "host=one"})
		c, unused := newCache(t, d)
		mustFind(t, c, "a", "host=one")
		for i := range 1000 {
			_, err := c.find(t.Context(), fmt.Sprint("invented", i))
			if !errors.Is(err, ErrUnknownTenant) || providers.OutcomeOf(err) != providers.OutcomeNotSent || !strings.Contains(err.Error(), "invented") {
				t.Fatal(err)
			}
		}
		if len(c.entries) != 1 {
			t.Errorf("%d are kept", len(c.entries))
		}
		d.set("invented1", "host=new")
		mustFind(t, c, "invented1", "host=new")
		d.remove("a")
		<-time.After(2 * time.Minute)
		if _, err := c.find(t.Context(), "a"); !errors.Is(err, ErrUnknownTenant) {
			t.Errorf("one that is gone: %v", err)
		}
		if got := unused(); got != "host=one" || c.current("a") != "" {
			t.Errorf("unused: %q", got)
		}
	})
}

// A database is unused only when its last tenant has left.
func TestTenantsOfOneDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTowns(map[string]string{"a": "host=one", "b": "host=one"})
		c, unused := newCache(t, d)
		for _, tenant := range []string{"a", "b"} {
			mustFind(t, c, tenant, "host=one")
		}
		for i, tenant := range []string{"a", "b"} {
			d.set(tenant, "host=two")
			<-time.After(2 * time.Minute)
			mustFind(t, c, tenant, "host=two")
			synctest.Wait()
			if got := unused(); (got == "host=one") != (i == 1) {
				t.Errorf("after %s: %q", tenant, got)
			}
		}
	})
}

func TestBadAnswersOfADirectory(t *testing.T) {
	for name, tc := range map[string]struct{ dsn, want string }{
		"empty":     {"", "is empty"},
		"nonsense":  {"postgres://u:geheim@host:port/db", "cannot be parsed"},
		"kept":      {"host=h password=geheim pool_min_conns=2", "pool_min_conns=2"},
		"kept idle": {"host=h password=geheim pool_min_idle_conns=1", "pool_min_idle_conns=1"},
		"panics":    {"panic", "panicked: oh"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newCache(t, DirectoryFunc(func(context.Context, string) (string, error) {
				if tc.dsn == "panic" {
					panic("oh")
				}
				return tc.dsn, nil
			}))
			_, err := c.find(t.Context(), "a")
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "geheim") {
				t.Error(err)
			}
			if providers.OutcomeOf(err) != providers.OutcomeNotSent || errors.Is(err, ErrUnknownTenant) {
				t.Error(err)
			}
		})
	}
}

func TestDirectoryFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tenants.json")
	d := DirectoryFile(path)
	write := func(content string) {
		t.Helper()
		// As a whole, by a rename.
		if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Lookup(t.Context(), "a"); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrUnknownTenant) {
		t.Errorf("without a file: %v", err)
	}
	write(`{"a": "host=one", "b": "host=two"}`)
	for range 2 {
		if dsn, err := d.Lookup(t.Context(), "a"); dsn != "host=one" || err != nil {
			t.Errorf("%q, %v", dsn, err)
		}
	}
	if _, err := d.Lookup(t.Context(), "c"); !errors.Is(err, ErrUnknownTenant) {
		t.Error(err)
	}
	write(`{"a": "host=six"}`) // as long as before
	if dsn, err := d.Lookup(t.Context(), "a"); dsn != "host=six" || err != nil {
		t.Errorf("%q, %v", dsn, err)
	}
	if _, err := d.Lookup(t.Context(), "b"); !errors.Is(err, ErrUnknownTenant) {
		t.Error(err)
	}
	write(`{"a": "host=geheim"`)
	for range 2 {
		_, err := d.Lookup(t.Context(), "a")
		if err == nil || errors.Is(err, ErrUnknownTenant) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("half a file: %v", err)
		}
	}
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lookup(t.Context(), "a"); err == nil {
		t.Error("a folder was read")
	}
}

// answers is a control database.
type answers struct {
	providers.Querier
	err  error
	rows []any
}

func (a answers) Query(context.Context, string, ...any) (pgx.Rows, error) {
	if a.err != nil && a.rows == nil {
		return nil, a.err
	}
	return &answerRows{noRows: noRows{err: a.err}, values: a.rows}, nil
}

type answerRows struct {
	noRows

	values []any
}

func (r *answerRows) Next() bool { return len(r.values) > 0 }

func (r *answerRows) Scan(dest ...any) error {
	v := r.values[0]
	r.values = r.values[1:]
	switch v := v.(type) {
	case error:
		return v
	case string:
		*dest[0].(**string) = &v
	}
	return nil
}

func TestDirectoryTableAnswers(t *testing.T) {
	bad := errors.New("bad")
	for name, tc := range map[string]struct {
		control answers
		dsn     string
		err     error
		text    string
	}{
		"found":      {answers{rows: []any{"host=one"}}, "host=one", nil, ""},
		"none":       {answers{rows: []any{}}, "", ErrUnknownTenant, `"a"`},
		"NULL":       {answers{rows: []any{nil}}, "", ErrUnknownTenant, ""},
		"two":        {answers{rows: []any{"host=one", "host=two"}}, "", nil, "more than one row"},
		"no query":   {answers{err: bad}, "", bad, "the directory's query"},
		"no scan":    {answers{rows: []any{bad}}, "", bad, "the directory's query"},
		"late error": {answers{err: bad, rows: []any{}}, "", bad, "the directory's query"},
	} {
		t.Run(name, func(t *testing.T) {
			dsn, err := DirectoryTable(tc.control, "select").Lookup(t.Context(), "a")
			if dsn != tc.dsn || tc.err != nil && !errors.Is(err, tc.err) || (err == nil) != (tc.dsn != "") {
				t.Fatalf("%q, %v", dsn, err)
			}
			if err != nil && !strings.Contains(err.Error(), tc.text) {
				t.Error(err)
			}
		})
	}
}
