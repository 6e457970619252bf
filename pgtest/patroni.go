package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// patroniEnv and etcdEnv name the programs.
	patroniEnv = "PGKEEL_PATRONI"
	etcdEnv    = "PGKEEL_ETCD"

	// patroniInterval is how often something is asked for that costs Patroni a
	// query: often enough for its loop of a second.
	patroniInterval = 50 * time.Millisecond
)

var errNoPatroni = errors.New(`pgtest: found no Patroni. Any of these helps:
  Debian, Ubuntu:  apt-get install patroni
  Fedora:          dnf install patroni
  elsewhere:       pip install 'patroni[psycopg2-binary]', or set ` + patroniEnv + ` to the program`)

var errNoEtcd = errors.New(`pgtest: found no etcd, in which Patroni keeps who leads. Any of these helps:
  Debian, Ubuntu:  apt-get install etcd-server
  Fedora:          dnf install etcd
  macOS:           brew install etcd
  elsewhere:       set ` + etcdEnv + ` to the program`)

// A Patroni is a cluster whose primary is chosen by Patroni and not by the test:
// each node is a Patroni with its PostgreSQL, and one etcd is where they agree.
type Patroni struct {
	opts    Options
	site    *site
	guard   *watchdog
	program string // Patroni's
	etcd    etcd
	nodes   []*PatroniNode

	// closing is held while the cluster is closed.
	closing sync.Mutex
	closed  bool
}

// StartPatroni starts a cluster of 1 + [Options].Standbys nodes under Patroni,
// the first of which begins as the leader, and returns when the others stream
// from it. With [Options].SynchronousStandbys Patroni's synchronous mode is on:
// a commit waits for that many standbys, and no other may become the leader, so
// that a failover loses nothing that was acknowledged. Its caller closes it.
//
// Patroni works with loop_wait 1, ttl 20 (the least it takes) and retry_timeout
// 3, with replication slots, and with pg_rewind over data checksums.
// full_page_writes is on, as pg_rewind needs it. [Patroni.Configure] changes
// these.
//
// The programs are those that the environment variables PGKEEL_PATRONI and
// PGKEEL_ETCD name, else those in PATH; PostgreSQL's must be a full set, with
// pg_basebackup, pg_rewind and pg_controldata.
func StartPatroni(ctx context.Context, opts Options) (*Patroni, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	bin, err := findBinaries(ctx, opts.BinDir)
	if err != nil {
		return nil, err
	}
	programs, err := findPatroni(bin)
	if err != nil {
		return nil, err
	}
	var p *Patroni
	err = onPorts(func() (err error) {
		p, err = startPatroni(ctx, opts, bin, programs)
		return err
	})
	return p, err
}

// NewPatroni is StartPatroni for a test: it fails the test on an error, and
// closes the cluster when the test is over.
func NewPatroni(t testing.TB, opts Options) *Patroni {
	t.Helper()
	p, err := StartPatroni(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	return p
}

// patroniPrograms are those beside PostgreSQL's.
type patroniPrograms struct{ patroni, etcd string }

func findPatroni(bin string) (programs patroniPrograms, err error) {
	for _, name := range []string{"pg_ctl", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_isready"} {
		if !isProgram(filepath.Join(bin, name)) {
			return programs, fmt.Errorf("pgtest: Patroni needs %s, which is not in %s: set Options.BinDir or %s to a full installation of PostgreSQL", name, bin, binDirEnv)
		}
	}
	if programs.patroni, err = findProgram("patroni", patroniEnv, errNoPatroni); err != nil {
		return programs, err
	}
	programs.etcd, err = findProgram("etcd", etcdEnv, errNoEtcd)
	return programs, err
}

func startPatroni(ctx context.Context, opts Options, bin string, programs patroniPrograms) (*Patroni, error) {
	p := &Patroni{opts: opts, program: programs.patroni, etcd: etcd{program: programs.etcd}}
	var err error
	if p.site, err = newSite(bin, opts.Dir); err != nil {
		return nil, err
	}
	for _, program := range []string{programs.patroni, programs.etcd} {
		if !p.site.user.reaches(program) {
			return nil, errors.Join(fmt.Errorf("pgtest: the server's user cannot read %s", program), p.site.remove())
		}
	}
	if p.guard, err = watch(p.site.dir); err != nil {
		return nil, errors.Join(err, p.site.remove())
	}
	open.add(p)
	if err := p.populate(ctx); err != nil {
		return nil, errors.Join(err, p.Close(context.WithoutCancel(ctx)))
	}
	return p, nil
}

func (p *Patroni) populate(ctx context.Context) error {
	if err := p.site.adoptBinaries(); err != nil {
		return err
	}
	if err := p.etcd.start(ctx, p.site); err != nil {
		return err
	}
	for range 1 + p.opts.Standbys {
		if err := p.addNode(); err != nil {
			return err
		}
	}
	// The first one alone, so that it is the leader.
	if err := p.nodes[0].Start(ctx); err != nil {
		return err
	}
	if _, err := p.WaitForLeader(ctx); err != nil {
		return err
	}
	errs := make([]error, len(p.nodes))
	var wg sync.WaitGroup
	for i, n := range p.nodes {
		wg.Go(func() { errs[i] = n.Start(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return p.WaitStreaming(ctx)
}

// addNode adds a node that was not started yet.
func (p *Patroni) addNode() error {
	name := fmt.Sprintf("node%d", len(p.nodes))
	path := filepath.Join(p.site.dir, name)
	n := &PatroniNode{cluster: p, name: name, data: path, config: path + ".json", log: path + ".log"}
	for _, port := range []*int{&n.port, &n.api} {
		var err error
		if *port, err = freePort(); err != nil {
			return err
		}
	}
	text, err := n.configuration()
	if err != nil {
		return err
	}
	p.nodes = append(p.nodes, n)
	return p.site.writeFile(n.config, text)
}

// Nodes returns every node, running or not, in the order of its start.
func (p *Patroni) Nodes() []*PatroniNode { return slices.Clone(p.nodes) }

// DSN returns a URL with the addresses of all nodes, for a database of the
// cluster, as the superuser postgres; an empty name means the database postgres.
// It leaves open which of them is wanted: target_session_attrs can be added.
func (p *Patroni) DSN(database string) string {
	var hosts []string
	for _, n := range p.nodes {
		hosts = append(hosts, n.address())
	}
	return p.dsn(strings.Join(hosts, ","), database)
}

func (p *Patroni) dsn(hosts, database string) string {
	user := url.User(superuser)
	if pw := p.opts.Password; pw != "" {
		user = url.UserPassword(superuser, pw)
	}
	return dsnURL(user, hosts, database, url.Values{"sslmode": {"disable"}})
}

// RESTURLs returns the address of every node's REST API, such as
// http://127.0.0.1:23456.
func (p *Patroni) RESTURLs() []string {
	var urls []string
	for _, n := range p.nodes {
		urls = append(urls, n.RESTURL())
	}
	return urls
}

// errNoLeader is the state between two leaders.
var errNoLeader = errors.New("pgtest: no node of the cluster leads and takes writes")

// Leader returns the node that holds the leader's lock, by its Patroni's word,
// and takes writes, by PostgreSQL's. Between two leaders that is an error. Nodes
// that are down or paused are not asked.
func (p *Patroni) Leader(ctx context.Context) (*PatroniNode, error) {
	leads := make([]bool, len(p.nodes))
	var wg sync.WaitGroup
	for i, n := range p.nodes {
		if n.up.Load() {
			wg.Go(func() { leads[i] = n.leads(ctx) })
		}
	}
	wg.Wait()
	if i := slices.Index(leads, true); i >= 0 {
		return p.nodes[i], nil
	}
	return nil, errNoLeader
}

func (n *PatroniNode) leads(ctx context.Context) (leads bool) {
	if n.call(ctx, "GET", "/primary", nil, nil) != nil {
		return false
	}
	err := n.session(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `select not pg_is_in_recovery()`).Scan(&leads)
	})
	return leads && err == nil
}

// WaitForLeader returns the leader as soon as there is one other than those
// given.
func (p *Patroni) WaitForLeader(ctx context.Context, other ...*PatroniNode) (leader *PatroniNode, err error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	err = pollEvery(ctx, patroniInterval, "a leader", func() (bool, error) {
		now, err := p.Leader(ctx)
		if err == nil && !slices.Contains(other, now) {
			leader = now
		}
		return leader != nil, nil
	})
	return leader, err
}

// WaitStreaming returns when every node that runs streams from the leader, and,
// in synchronous mode, Patroni has noted as many of them as it is to have: from
// then on commits wait for them, and they may take over.
func (p *Patroni) WaitStreaming(ctx context.Context) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	var last error
	err := pollEvery(ctx, patroniInterval, "the standbys to stream", func() (bool, error) {
		last = p.streaming(ctx)
		return last == nil, nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// streaming returns what is missing.
func (p *Patroni) streaming(ctx context.Context) error {
	leader, err := p.Leader(ctx)
	if err != nil {
		return err
	}
	members, err := leader.members(ctx)
	if err != nil {
		return err
	}
	noted := 0
	for _, m := range members {
		if m.Role == "sync_standby" {
			noted++
		}
	}
	state, err := leader.standbys(ctx)
	if err != nil {
		return err
	}
	synchronous := 0
	for _, n := range p.nodes {
		sync, streams := state[n.name]
		if !streams && n != leader && n.up.Load() {
			return fmt.Errorf("pgtest: %s does not stream from %s", n.name, leader.name)
		}
		if sync == "sync" || sync == "quorum" {
			synchronous++
		}
	}
	if want := p.opts.SynchronousStandbys; min(noted, synchronous) < want {
		return fmt.Errorf("pgtest: %d standbys are synchronous and Patroni has noted %d, of %d", synchronous, noted, want)
	}
	return nil
}

// standbys returns the sync_state of each standby that streams from the node.
func (n *PatroniNode) standbys(ctx context.Context) (map[string]string, error) {
	state := map[string]string{}
	err := n.session(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `select application_name, sync_state from pg_stat_replication where state = 'streaming'`)
		if err != nil {
			return err
		}
		var name, sync string
		_, err = pgx.ForEachRow(rows, []any{&name, &sync}, func() error { state[name] = sync; return nil })
		return err
	})
	return state, err
}

// Switchover has Patroni hand the leadership to another node, which it does in
// an orderly way: the leader is shut down when the other one has received all.
// It returns when that one is the leader. In synchronous mode it must be a
// synchronous standby.
func (p *Patroni) Switchover(ctx context.Context, to *PatroniNode) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	from, err := p.Leader(ctx)
	if err != nil {
		return err
	}
	if err := from.call(ctx, "POST", "/switchover", map[string]string{"leader": from.name, "candidate": to.name}, nil); err != nil {
		return err
	}
	now, err := p.WaitForLeader(ctx, from)
	if err == nil && now != to {
		err = fmt.Errorf("pgtest: switchover: Patroni chose %s rather than %s", now.name, to.name)
	}
	return err
}

// Configure changes Patroni's dynamic configuration, as patronictl edit-config
// does, and returns when every node that runs has it: what is nil is removed, a
// map is merged. With {"primary_start_timeout": 0} a crashed primary (see
// [PatroniNode.KillPostgres]) is not started again but replaced.
func (p *Patroni) Configure(ctx context.Context, patch map[string]any) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	leader, err := p.WaitForLeader(ctx)
	if err != nil {
		return err
	}
	var want string
	if err := leader.call(ctx, "PATCH", "/config", patch, &want); err != nil {
		return err
	}
	return pollEvery(ctx, patroniInterval, "the configuration to be taken up", func() (bool, error) {
		return !slices.ContainsFunc(p.nodes, func(n *PatroniNode) bool {
			var has string
			return n.up.Load() && (n.call(ctx, "GET", "/config", nil, &has) != nil || has != want)
		}), nil
	})
}

// ExpireLeader ends the lease on the leader's lock, as etcd does by itself when
// the leader has not renewed it for the ttl of 20 seconds. Behind
// [PatroniNode.Kill] or [PatroniNode.Pause] it spares a test that wait: the
// others choose a leader at once. A leader that lives takes the lock again.
func (p *Patroni) ExpireLeader(ctx context.Context) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	return p.etcd.revoke(ctx, "/service/"+patroniScope+"/leader")
}

// Close ends every node and etcd at once and removes the folder. Further calls
// do nothing and return nil.
func (p *Patroni) Close(ctx context.Context) error {
	p.closing.Lock()
	defer p.closing.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	ctx, cancel := limited(ctx)
	defer cancel()
	open.remove(p)
	errs := make([]error, len(p.nodes))
	var wg sync.WaitGroup
	for i, n := range p.nodes {
		wg.Go(func() { errs[i] = n.end(ctx) })
	}
	wg.Wait()
	p.etcd.end()
	return errors.Join(append(errs, p.site.remove(), p.guard.release())...)
}

// readLog returns a log's text, or nothing where there is none any more.
func readLog(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// startError adds the end of a log to the error of a program that does not come
// up, and says whether a taken port is the reason.
func startError(err error, log string) error {
	if portTaken(log) {
		err = fmt.Errorf("%w: %w", err, errPortTaken)
	}
	return fmt.Errorf("%w; its log ends with\n%s", err, lastLines(log))
}

func portTaken(log string) bool {
	return strings.Contains(strings.ToLower(log), "address already in use")
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
