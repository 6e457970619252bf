package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// pgBouncerEnv names PgBouncer's program.
const pgBouncerEnv = "PGKEEL_PGBOUNCER"

var errNoPgBouncer = errors.New(`pgtest: found no PgBouncer. Any of these helps:
  Debian, Ubuntu:  apt-get install pgbouncer
  Fedora:          dnf install pgbouncer
  macOS:           brew install pgbouncer
  elsewhere:       set ` + pgBouncerEnv + ` to the program`)

// A PgBouncer is a connection pooler in front of a [Node].
type PgBouncer struct {
	node *Node
	dir  string
	log  string
	port int

	mu   sync.Mutex
	proc *process // nil when closed
}

// StartPgBouncer starts a real PgBouncer in front of this node and returns when
// it accepts connections. It pools by transaction; settings are lines of the
// section [pgbouncer] of its configuration, by name, such as
// {"default_pool_size": "2"}, and may change that. What the kit itself needs
// (addresses, files, authentication) is refused. All else is PgBouncer's default.
//
// Its program is the one that the environment variable PGKEEL_PGBOUNCER names,
// else the one in PATH, else /usr/sbin/pgbouncer. Every role of the node may
// connect, with the password it has if [Options].Password is set.
//
// It ends with [PgBouncer.Close], and at the latest with its cluster. It
// outlives the node's restarts, as a real one would.
func (n *Node) StartPgBouncer(ctx context.Context, settings map[string]string) (*PgBouncer, error) {
	c := n.cluster
	if c.outside != "" {
		return nil, ErrOutside
	}
	if err := validatePgBouncer(settings); err != nil {
		return nil, err
	}
	program, err := findPgBouncer()
	if err != nil {
		return nil, err
	}
	c.growMu.Lock() // against the cluster's end
	defer c.growMu.Unlock()
	if c.isClosed() {
		return nil, errors.New("pgtest: StartPgBouncer: the cluster is closed")
	}
	if !c.site.user.reaches(program) {
		return nil, fmt.Errorf("pgtest: StartPgBouncer: the server's user cannot read %s", program)
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	dir := filepath.Join(c.site.dir, fmt.Sprintf("pgbouncer%d", len(c.bouncers)))
	b := &PgBouncer{node: n, dir: dir, log: dir + ".log"}
	if err := b.start(ctx, program, settings); err != nil {
		return nil, fmt.Errorf("pgtest: StartPgBouncer: %w", err)
	}
	c.bouncers = append(c.bouncers, b)
	return b, nil
}

// NewPgBouncer is StartPgBouncer for a test: it fails the test on an error, and
// closes the pooler when the test is over.
func (n *Node) NewPgBouncer(t testing.TB, settings map[string]string) *PgBouncer {
	t.Helper()
	b, err := n.StartPgBouncer(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// findPgBouncer returns PgBouncer's program. As with the server's, a choice of
// the user is final.
func findPgBouncer() (string, error) { return findProgram("pgbouncer", pgBouncerEnv, errNoPgBouncer) }

// ownBouncerSettings are those without which the kit would lose its pooler.
var ownBouncerSettings = []string{
	"admin_users", "auth_dbname", "auth_file", "auth_hba_file", "auth_query", "auth_type", "auth_user", "conffile",
	"listen_addr", "listen_port", "logfile", "peer_id", "pidfile", "so_reuseport", "unix_socket_dir", "user",
}

var bouncerSettingName = regexp.MustCompile(`^[a-z_0-9]+$`)

func validatePgBouncer(settings map[string]string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		switch {
		case !bouncerSettingName.MatchString(name):
			errs = append(errs, fmt.Errorf("pgtest: StartPgBouncer: %q is not the name of a setting", name))
		case slices.Contains(ownBouncerSettings, name):
			errs = append(errs, fmt.Errorf("pgtest: StartPgBouncer: %s is set by the kit", name))
		case strings.ContainsAny(settings[name], "\x00\r\n"):
			errs = append(errs, fmt.Errorf("pgtest: StartPgBouncer: the value of %s contains a line break or NUL", name))
		}
	}
	return errors.Join(errs...)
}

// configuration returns PgBouncer's. It reaches the node over the socket, where
// everybody is trusted, and asks it for the roles that its own file lacks.
func (b *PgBouncer) configuration(settings map[string]string) string {
	c := b.node.cluster
	all := map[string]string{"pool_mode": "transaction"}
	maps.Copy(all, settings)
	all["listen_addr"], all["listen_port"], all["unix_socket_dir"] = "127.0.0.1", strconv.Itoa(b.port), ""
	all["auth_file"], all["auth_user"], all["admin_users"] = b.usersFile(), superuser, superuser
	all["auth_type"] = "trust"
	if c.opts.Password != "" {
		all["auth_type"] = "scram-sha-256"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "[databases]\n* = host=%s port=%d\n[pgbouncer]\n", c.site.socketDir(), b.node.Port())
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s = %s\n", name, all[name])
	}
	return text.String()
}

func (b *PgBouncer) configFile() string { return filepath.Join(b.dir, "pgbouncer.ini") }
func (b *PgBouncer) usersFile() string  { return filepath.Join(b.dir, "users.txt") }

// users returns the superuser's line of the password file, in which a quote is
// doubled.
func (b *PgBouncer) users() string {
	return fmt.Sprintf("%q \"%s\"\n", superuser, strings.ReplaceAll(b.node.cluster.opts.Password, `"`, `""`))
}

// start starts it on a free port.
func (b *PgBouncer) start(ctx context.Context, program string, settings map[string]string) error {
	s := b.node.cluster.site
	if err := errors.Join(s.makeDir(b.dir), s.writeFile(b.usersFile(), b.users())); err != nil {
		return err
	}
	return onPorts(func() (err error) {
		if b.port, err = freePort(); err != nil {
			return err
		}
		if err := s.writeFile(b.configFile(), b.configuration(settings)); err != nil {
			return err
		}
		return b.launch(ctx, program)
	})
}

// launch starts it and waits for its own word that it is ready.
func (b *PgBouncer) launch(ctx context.Context, program string) error {
	offset := len(b.Log())
	proc, err := b.node.cluster.site.spawn(b.log, program, b.configFile())
	if err != nil {
		return err
	}
	err = poll(ctx, "PgBouncer", func() (bool, error) {
		if proc.exited() {
			return false, errors.New("pgtest: it does not start")
		}
		return strings.Contains(b.Log()[offset:], "process up"), nil
	})
	if err == nil {
		b.proc = proc
		return nil
	}
	proc.kill(nil)
	log := b.Log()[offset:]
	if strings.Contains(log, "Address already in use") {
		err = fmt.Errorf("%w: %w", err, errPortTaken)
	}
	return fmt.Errorf("%w; its log ends with\n%s", err, lastLines(log))
}

// DSN returns a URL that connects through the pooler to a database of its node
// as the superuser postgres; an empty name means the database postgres. The
// name pgbouncer is that of its admin console, which understands the simple
// protocol only.
func (b *PgBouncer) DSN(database string) string {
	user := url.User(superuser)
	if pw := b.node.cluster.opts.Password; pw != "" {
		user = url.UserPassword(superuser, pw)
	}
	return dsnURL(user, net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)), database, url.Values{"sslmode": {"disable"}})
}

// Port returns its TCP port.
func (b *PgBouncer) Port() int { return b.port }

// Log returns what it has written to its log so far, or an empty string after
// the cluster was closed.
func (b *PgBouncer) Log() string {
	text, _ := os.ReadFile(b.log)
	return string(text)
}

// Close ends it at once, and with it every connection through it. Further calls
// do nothing.
func (b *PgBouncer) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.proc == nil {
		return
	}
	// It has nothing to write, and which signal means "at once" has changed
	// between its releases.
	b.proc.kill(nil)
	b.proc = nil
}
