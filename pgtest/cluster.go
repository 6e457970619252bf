package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// A Cluster is a primary and its standbys on this machine, or an outside server.
type Cluster struct {
	opts    Options
	site    *site     // nil for an outside server
	guard   *watchdog // nil for an outside server
	outside string    // the DSN of an outside server

	// growMu is held while a standby or a pooler is being added or the cluster
	// closed.
	growMu   sync.Mutex
	bouncers []*PgBouncer

	mu        sync.Mutex
	nodes     []*Node
	primary   *Node
	templates []string // to drop at the end; only on an outside server
	closed    bool
}

// open holds every cluster that was not closed. Without it the collector could
// close the watchdog's pipe, and so end a cluster of which a test only kept the
// DSN. [Main] closes what is left in it.
var open registry

type registry struct {
	sync.Mutex
	clusters []closer
}

type closer interface{ Close(context.Context) error }

func (r *registry) add(c closer) {
	r.Lock()
	defer r.Unlock()
	r.clusters = append(r.clusters, c)
}

func (r *registry) remove(c closer) {
	r.Lock()
	defer r.Unlock()
	r.clusters = slices.DeleteFunc(r.clusters, func(o closer) bool { return o == c })
}

// Start starts a cluster and returns when every node accepts connections. Its
// caller closes it. The options' faults are reported together; an error of a
// server carries the end of its log. After an error nothing is left behind.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	bin, err := findBinaries(ctx, opts.BinDir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: opts}
	if c.site, err = newSite(bin, opts.Dir); err != nil {
		return nil, err
	}
	if c.guard, err = watch(c.site.dir); err != nil {
		return nil, errors.Join(err, c.site.remove())
	}
	open.add(c)
	if err := c.populate(ctx); err != nil {
		return nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// New is Start for a test: it fails the test on an error, and closes the
// cluster when the test is over.
func New(t testing.TB, opts Options) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	return c
}

func closeAtEnd(t testing.TB, c closer) {
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func (c *Cluster) populate(ctx context.Context) error {
	if err := c.site.adoptBinaries(); err != nil {
		return err
	}
	primary := c.newNode()
	if err := primary.initialize(ctx, c.opts); err != nil {
		return err
	}
	if err := primary.Start(ctx); err != nil {
		return err
	}
	c.join(primary)
	for range c.opts.Standbys {
		if _, err := c.AddStandby(ctx); err != nil {
			return err
		}
	}
	if n := c.opts.SynchronousStandbys; n > 0 {
		// Only now: before there are standbys every commit would wait for them.
		return primary.exec(ctx,
			fmt.Sprintf(`alter system set synchronous_standby_names = 'ANY %d (*)'`, n),
			`select pg_reload_conf()`)
	}
	return nil
}

// newNode returns a node that is not part of the cluster yet.
func (c *Cluster) newNode() *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := fmt.Sprintf("node%d", len(c.nodes))
	return &Node{
		cluster: c, name: name,
		data: filepath.Join(c.site.dir, name),
		log:  filepath.Join(c.site.dir, name+".log"),
	}
}

// join adds a running node; the first is the primary.
func (c *Cluster) join(n *Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, n)
	if c.primary == nil {
		c.primary = n
	}
}

// Primary returns the node that takes writes: the first, or the one that was
// promoted last.
func (c *Cluster) Primary() *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.primary
}

// Standbys returns the standbys that were not promoted, in the order in which
// they were added, whether they run or not.
func (c *Cluster) Standbys() []*Node {
	return slices.DeleteFunc(c.Nodes(), func(n *Node) bool { return !n.standby.Load() })
}

// Nodes returns every node in the order of its start, also a former primary.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.nodes)
}

// Close ends every server at once and removes the folder. Further calls do
// nothing and return nil. On an outside server it only drops the kit's
// template databases.
func (c *Cluster) Close(ctx context.Context) error {
	c.growMu.Lock()
	defer c.growMu.Unlock()
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	open.remove(c)
	if c.outside != "" {
		return c.dropTemplates(ctx)
	}
	for _, b := range c.bouncers {
		b.Close()
	}
	var wg sync.WaitGroup
	for _, n := range c.Nodes() {
		wg.Go(func() { n.end(ctx) })
	}
	wg.Wait()
	return errors.Join(c.site.remove(), c.guard.release())
}

// closeAll closes the clusters that nobody has.
func closeAll(ctx context.Context) error {
	open.Lock()
	left := slices.Clone(open.clusters)
	open.Unlock()
	var errs []error
	for _, c := range left {
		errs = append(errs, c.Close(ctx))
	}
	return errors.Join(errs...)
}

// outsideEnv names the DSN of a server that is already there.
const outsideEnv = "PGKEEL_TEST_DSN"

// ErrOutside is the error of what cannot be done to an outside server, the one
// that PGKEEL_TEST_DSN names: the kit did not start it, and does not end,
// pause, promote or extend it.
var ErrOutside = errors.New("pgtest: not possible on an outside server (" + outsideEnv + "); use Start or New")

// outsideCluster wraps the server at dsn, having checked that it answers.
func outsideCluster(ctx context.Context, dsn string) (*Cluster, error) {
	c := &Cluster{outside: dsn}
	c.primary = &Node{cluster: c, name: "outside"}
	c.nodes = []*Node{c.primary}
	if err := c.primary.exec(ctx, `select 1`); err != nil {
		return nil, fmt.Errorf("pgtest: the server of %s: %w", outsideEnv, err)
	}
	open.add(c)
	return c, nil
}

var shared struct {
	sync.Once
	cluster *Cluster
	err     error
}

// Shared returns the one cluster of this test binary: a single server, started
// at the first call with default options, or the outside server that
// PGKEEL_TEST_DSN names. Nobody closes it: [Main] does. It fails the test if
// there is none to be had.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	shared.Do(func() {
		// The cluster outlives the test that happens to be first.
		ctx, cancel := limited(context.WithoutCancel(t.Context()))
		defer cancel()
		if dsn := os.Getenv(outsideEnv); dsn != "" {
			shared.cluster, shared.err = outsideCluster(ctx, dsn)
			return
		}
		shared.cluster, shared.err = Start(ctx, Options{})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	if shared.cluster == nil {
		t.Fatal("pgtest: the start of the shared cluster was cut short")
	}
	return shared.cluster
}
