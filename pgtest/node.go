package pgtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// superuser is the role that initdb creates.
const superuser = "postgres"

// A Node is one server of a [Cluster].
type Node struct {
	cluster *Cluster
	name    string
	data    string
	log     string
	standby atomic.Bool
	port    atomic.Int32 // 0 until the first start, then the same for ever

	// mu is held during an operation.
	mu     sync.Mutex
	proc   *process // nil while stopped
	frozen []int    // the children of a paused server
	paused bool
	closed bool
}

// Name returns the node's name, which is also the application_name of its
// replication: node0, node1, …; "outside" for an outside server.
func (n *Node) Name() string { return n.name }

// DSN returns a URL that connects to a database of this node over TCP as the
// superuser postgres; an empty name means the database postgres. It stays the
// same when the node is restarted. For an outside server it is the given DSN
// with the database replaced, in the form in which it was given, and an empty
// name leaves its database.
func (n *Node) DSN(database string) string {
	if dsn := n.cluster.outside; dsn != "" {
		return withDatabase(dsn, database)
	}
	user := url.User(superuser)
	if pw := n.cluster.opts.Password; pw != "" {
		user = url.UserPassword(superuser, pw)
	}
	return dsnURL(user, net.JoinHostPort("127.0.0.1", strconv.Itoa(n.Port())), database, url.Values{"sslmode": {"disable"}})
}

// Host returns 127.0.0.1, or an empty string for an outside server.
func (n *Node) Host() string {
	if n.cluster.outside != "" {
		return ""
	}
	return "127.0.0.1"
}

// Port returns the node's TCP port, or 0 for an outside server.
func (n *Node) Port() int { return int(n.port.Load()) }

// adminDSN is for the kit itself: over the socket, where everybody is trusted.
func (n *Node) adminDSN(database string) string {
	if n.cluster.outside != "" {
		return n.DSN(database)
	}
	return dsnURL(url.User(superuser), "", database, url.Values{
		"sslmode": {"disable"}, "application_name": {"pgtest"},
		"host": {n.cluster.site.socketDir()}, "port": {strconv.Itoa(n.Port())},
	})
}

func dsnURL(user *url.Userinfo, host, database string, query url.Values) string {
	if database == "" {
		database = "postgres"
	}
	u := url.URL{Scheme: "postgres", User: user, Host: host, Path: "/" + database, RawQuery: query.Encode()}
	return u.String()
}

// withDatabase replaces the database of a DSN in either form.
func withDatabase(dsn, database string) string {
	if database == "" {
		return dsn
	}
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		// Of a keyword given twice the last one counts.
		return dsn + " dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(database) + "'"
	}
	q := u.Query()
	q.Del("dbname")
	u.RawQuery, u.Path, u.RawPath = q.Encode(), "/"+database, ""
	return u.String()
}

// Log returns what the server has written to its log so far, or an empty string
// for an outside server and after the cluster was closed.
func (n *Node) Log() string {
	text, _ := os.ReadFile(n.log)
	return string(text)
}

// exec runs statements on a connection of its own.
func (n *Node) exec(ctx context.Context, statements ...string) error {
	return n.session(ctx, func(conn *pgx.Conn) error {
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

// session runs do with a connection.
func (n *Node) session(ctx context.Context, do func(*pgx.Conn) error) error {
	return session(ctx, n.adminDSN(""), do)
}

func session(ctx context.Context, dsn string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close(context.WithoutCancel(ctx)))
}

// initialize makes the node's data folder with initdb.
func (n *Node) initialize(ctx context.Context, opts Options) error {
	s := n.cluster.site
	args := []string{
		s.program("initdb"), "-D", n.data, "-U", superuser, "--no-sync", "--encoding=UTF8",
		"--auth-local=trust", "--auth-host=trust",
	}
	if opts.Password != "" {
		file := filepath.Join(s.dir, "password")
		if err := s.writeFile(file, opts.Password); err != nil {
			return err
		}
		defer os.Remove(file)
		args[len(args)-1] = "--auth-host=scram-sha-256"
		args = append(args, "--pwfile="+file)
	}
	err := s.run(ctx, append(args, "--locale=C.UTF-8")...)
	if err != nil && strings.Contains(err.Error(), "locale") && ctx.Err() == nil {
		err = s.run(ctx, append(args, "--locale=C")...)
	}
	if err != nil {
		return err
	}
	return appendTo(filepath.Join(n.data, "postgresql.conf"), opts.configuration())
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// operate runs an operation that changes the server's processes.
func (n *Node) operate(do func() error) error {
	if n.cluster.outside != "" {
		return ErrOutside
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return fmt.Errorf("pgtest: %s: the cluster is closed", n.name)
	}
	return do()
}

// Start starts the server, if it does not run, on the port it had, and returns
// when it accepts connections. After [Node.Kill] that includes crash recovery.
// The error of a server that does not come up carries the end of its log.
func (n *Node) Start(ctx context.Context) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	return n.operate(func() error { return n.start(ctx) })
}

var errPortTaken = errors.New("the port is taken")

// onPorts calls start, which chooses ports, and calls it again where somebody took one
// between its look and the server's.
func onPorts(start func() error) (err error) {
	for range 6 {
		if err = start(); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

func (n *Node) start(ctx context.Context) error {
	if n.proc != nil && !n.proc.exited() {
		return nil
	}
	if n.port.Load() != 0 {
		return n.launch(ctx)
	}
	return onPorts(func() error {
		port, err := freePort()
		if err != nil {
			return err
		}
		n.port.Store(int32(port))
		return n.launch(ctx)
	})
}

// freePort picks from below the range that systems give to outgoing
// connections, so that a stopped node finds its port free again.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := 20000 + rand.IntN(10000)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("pgtest: found no free port: %w", err)
}

// launch starts the server and waits until it is ready.
func (n *Node) launch(ctx context.Context) error {
	s := n.cluster.site
	offset := len(n.Log())
	var err error
	n.paused = false
	n.proc, err = s.spawn(n.log, s.program("postgres"), "-D", n.data,
		"-c", "listen_addresses=127.0.0.1", "-p", strconv.Itoa(n.Port()),
		"-c", "unix_socket_directories="+s.socketDir(), "-c", "cluster_name="+n.name)
	if err != nil {
		return err
	}
	err = poll(ctx, "the start of "+n.name, func() (bool, error) {
		if n.proc.exited() {
			return false, fmt.Errorf("pgtest: %s does not start", n.name)
		}
		return n.ready(), nil
	})
	if err == nil {
		return nil
	}
	n.terminate()
	log := n.Log()[offset:]
	if strings.Contains(log, "could not create any TCP/IP sockets") {
		err = fmt.Errorf("%w: %w", err, errPortTaken)
	}
	return fmt.Errorf("%w; its log ends with\n%s", err, lastLines(log))
}

// ready reads the server's own word in postmaster.pid: the first line is whose
// file it is, the eighth its state.
func (n *Node) ready() bool {
	lines := pidFile(n.data)
	return len(lines) >= 8 && lines[0] == strconv.Itoa(n.proc.pid) && strings.TrimSpace(lines[7]) == "ready"
}

// pidFile returns the lines of the postmaster.pid of a data folder.
func pidFile(data string) []string {
	text, _ := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	return strings.Split(string(text), "\n")
}

// Stop shuts the server down as an operator would (fast: sessions are ended,
// data is written). A stopped node stays stopped. A primary waits until its
// connected standbys have received everything, so with a paused standby it ends
// only with ctx; the server is then still shutting down.
func (n *Node) Stop(ctx context.Context) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	return n.operate(func() error { return n.stop(ctx) })
}

func (n *Node) stop(ctx context.Context) error {
	if n.proc == nil {
		return nil
	}
	n.resume()
	n.proc.interrupt()
	err := poll(ctx, "the stop of "+n.name, func() (bool, error) { return n.proc.exited(), nil })
	if err == nil {
		n.proc = nil
	}
	return err
}

// Restart is [Node.Stop] and [Node.Start].
func (n *Node) Restart(ctx context.Context) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	return n.operate(func() error {
		if err := n.stop(ctx); err != nil {
			return err
		}
		return n.start(ctx)
	})
}

// Kill ends the server and all its sessions with SIGKILL, as a crash would, and
// returns when every process is gone. Clients see their connection reset.
// [Node.Start] brings it back. A stopped node stays stopped.
func (n *Node) Kill() error {
	ctx, cancel := limited(context.Background())
	defer cancel()
	return n.operate(func() error { return n.kill(ctx) })
}

func (n *Node) kill(ctx context.Context) error {
	if n.proc == nil {
		return nil
	}
	if !n.paused {
		n.frozen = n.proc.freeze()
	}
	n.proc.kill(n.frozen)
	children := n.frozen
	n.proc, n.frozen, n.paused = nil, nil, false
	return poll(ctx, "the end of the processes of "+n.name, func() (bool, error) {
		for _, pid := range children {
			if !dead(pid) {
				return false, nil
			}
		}
		return true, nil
	})
}

// Pause stops the server and all its sessions with SIGSTOP: connections stay
// open and nothing answers, as with a machine that hangs. New connections are
// accepted by the system and wait. [Node.Resume] lets it go on. A paused node
// stays paused; one that does not run is an error.
func (n *Node) Pause() error {
	return n.operate(func() error {
		if n.proc == nil || n.proc.exited() {
			return fmt.Errorf("pgtest: %s does not run, so it cannot be paused", n.name)
		}
		if !n.paused {
			n.frozen, n.paused = n.proc.freeze(), true
		}
		return nil
	})
}

// Resume lets a paused node go on. One that is not paused is left alone.
func (n *Node) Resume() error {
	return n.operate(func() error { n.resume(); return nil })
}

func (n *Node) resume() {
	if n.paused && n.proc != nil {
		n.proc.thaw()
	}
	n.frozen, n.paused = nil, false
}

// end is for Close: the folder goes anyway, so nothing is written any more. A
// server that quits by itself frees its shared memory; one that has not within
// a few seconds is killed.
func (n *Node) end(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.terminateWithin(ctx, 5*time.Second)
}

// terminate ends a server that did not come up.
func (n *Node) terminate() { n.terminateWithin(context.Background(), 5*time.Second) }

func (n *Node) terminateWithin(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if n.proc != nil {
		n.resume()
		n.proc.quit()
		if poll(ctx, "", func() (bool, error) { return n.proc.exited(), nil }) != nil {
			_ = n.kill(context.Background())
		}
		n.proc = nil
	}
	removeSharedMemory(pidFile(n.data))
}
