package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// A PatroniNode is one node of a [Patroni]: the Patroni and its PostgreSQL, as
// they would be together on a machine.
type PatroniNode struct {
	cluster *Patroni
	name    string
	data    string
	config  string
	log     string
	port    int
	api     int
	up      atomic.Bool // neither down nor paused

	// mu is held during an operation.
	mu      sync.Mutex
	proc    *process // Patroni; nil while the node is down
	helpers []int    // of a paused node, the children of Patroni
	servers []int    // of a paused node, PostgreSQL and its sessions
	paused  bool
	closed  bool
}

// Name returns the node's name, with Patroni and in replication: node0, node1, ….
func (n *PatroniNode) Name() string { return n.name }

// DSN returns a URL that connects to a database of this node over TCP as the
// superuser postgres; an empty name means the database postgres. It stays the
// same as long as the cluster lives.
func (n *PatroniNode) DSN(database string) string { return n.cluster.dsn(n.address(), database) }

// Host returns 127.0.0.1.
func (n *PatroniNode) Host() string { return "127.0.0.1" }

// Port returns the TCP port of the node's PostgreSQL.
func (n *PatroniNode) Port() int { return n.port }

// RESTURL returns the address of its Patroni's REST API, such as
// http://127.0.0.1:23456.
func (n *PatroniNode) RESTURL() string { return "http://" + loopback(n.api) }

// Log returns what Patroni and its PostgreSQL have written to their common log
// so far, or an empty string after the cluster was closed.
func (n *PatroniNode) Log() string { return readLog(n.log) }

func (n *PatroniNode) address() string { return loopback(n.port) }

// adminDSN is for the kit itself: over the socket, where everybody is trusted.
func (n *PatroniNode) adminDSN() string {
	return dsnURL(url.User(superuser), "", "", url.Values{
		"sslmode": {"disable"}, "application_name": {"pgtest"},
		"host": {n.cluster.site.socketDir()}, "port": {strconv.Itoa(n.port)},
	})
}

// session runs do with a connection.
func (n *PatroniNode) session(ctx context.Context, do func(*pgx.Conn) error) error {
	return session(ctx, n.adminDSN(), do)
}

// operate runs an operation that changes the node's processes.
func (n *PatroniNode) operate(do func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return fmt.Errorf("pgtest: %s: the cluster is closed", n.name)
	}
	return do()
}

// Start starts Patroni, if it does not run, and returns when it says that its
// PostgreSQL runs. After [PatroniNode.Kill] it comes back as a standby of the
// new leader, with pg_rewind or a new base backup as it needs:
// [Patroni.WaitStreaming] waits until it streams.
func (n *PatroniNode) Start(ctx context.Context) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	return n.operate(func() error {
		if n.proc != nil && !n.proc.exited() {
			return nil
		}
		return n.launch(ctx)
	})
}

func (n *PatroniNode) launch(ctx context.Context) error {
	offset := len(n.Log())
	if err := n.spawn(); err != nil {
		return err
	}
	err := pollEvery(ctx, patroniInterval, "the start of "+n.name, func() (bool, error) {
		switch {
		case n.proc.exited():
			return false, fmt.Errorf("pgtest: the Patroni of %s does not start", n.name)
		case portTaken(n.Log()[offset:]):
			return false, fmt.Errorf("pgtest: %s does not start", n.name)
		}
		var status struct{ State string }
		return n.call(ctx, "GET", "/patroni", nil, &status) == nil && status.State == "running", nil
	})
	if err == nil {
		return nil
	}
	log := n.Log()[offset:]
	_ = n.kill(context.WithoutCancel(ctx))
	return startError(err, log)
}

// spawn starts Patroni, which adopts a server that runs.
func (n *PatroniNode) spawn() error {
	var err error
	if n.proc, err = n.cluster.site.spawn(n.log, n.cluster.program, n.config); err == nil {
		n.up.Store(true)
	}
	return err
}

// Restart has Patroni restart its PostgreSQL, and returns when it runs again.
func (n *PatroniNode) Restart(ctx context.Context) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	return n.operate(func() error {
		return n.call(ctx, "POST", "/restart", struct{}{}, nil)
	})
}

// Kill ends Patroni, PostgreSQL and all its sessions with SIGKILL, and returns
// when every process is gone. The others notice it as they would the death of a
// machine: the leader's lock expires, after the ttl of 20 seconds or by
// [Patroni.ExpireLeader]. Clients, unlike then, see their connections reset. A
// node that is down stays down.
func (n *PatroniNode) Kill() error {
	ctx, cancel := limited(context.Background())
	defer cancel()
	return n.operate(func() error { return n.kill(ctx) })
}

func (n *PatroniNode) kill(ctx context.Context) error {
	if n.proc == nil {
		return nil
	}
	n.pause()
	all := slices.Concat(n.helpers, n.servers)
	n.proc.kill(all)
	n.proc, n.helpers, n.servers, n.paused = nil, nil, nil, false
	return n.waitForDeath(ctx, all)
}

func (n *PatroniNode) waitForDeath(ctx context.Context, pids []int) error {
	return poll(ctx, "the end of the processes of "+n.name, func() (bool, error) {
		for _, pid := range pids {
			if !dead(pid) {
				return false, nil
			}
		}
		return true, nil
	})
}

// KillPostgres ends PostgreSQL and all its sessions with SIGKILL, as a crash
// would, and leaves Patroni alone, which notices within its loop of a second. It
// starts the server again where it was, as its primary_start_timeout of 300
// seconds has it; set to 0 with [Patroni.Configure], it gives up a primary's
// lock for another node to take, within a second or two.
//
// In a container whose first process reaps nobody, such as one that only sleeps,
// a dead server seems alive to Patroni: start it with docker's --init.
func (n *PatroniNode) KillPostgres() error {
	ctx, cancel := limited(context.Background())
	defer cancel()
	return n.operate(func() error {
		all := freezeServers(ctx, n.data)
		if len(all) == 0 {
			return fmt.Errorf("pgtest: the PostgreSQL of %s does not run, so it cannot be killed", n.name)
		}
		killAll(all)
		return n.waitForDeath(ctx, all)
	})
}

// Pause stops Patroni, PostgreSQL and all its sessions with SIGSTOP: connections
// stay open and nothing answers, as with a machine that hangs.
// [PatroniNode.Resume] lets it go on, and then a leader may find that it is none
// any more. A paused node stays paused; one that does not run is an error.
func (n *PatroniNode) Pause() error {
	return n.operate(func() error {
		if n.proc == nil || n.proc.exited() {
			return fmt.Errorf("pgtest: %s does not run, so it cannot be paused", n.name)
		}
		n.pause()
		return nil
	})
}

// pause stops Patroni first: it then starts no server any more.
func (n *PatroniNode) pause() {
	if n.paused {
		return
	}
	ctx, cancel := limited(context.Background())
	defer cancel()
	n.paused = true
	n.up.Store(false)
	n.helpers = n.proc.freeze()
	n.servers = freezeServers(ctx, n.data)
}

// Resume lets a paused node go on: PostgreSQL as it was, so that there can be two
// primaries for a second, and Patroni from its start. For Patroni 3.0 trusts what
// it knew before its sleep, and would take the lock back from a new leader, with
// all that was committed there. A node that is not paused is left alone.
func (n *PatroniNode) Resume() error {
	return n.operate(func() error {
		if !n.paused {
			return nil
		}
		n.proc.kill(n.helpers)
		wakeAll(n.servers)
		n.helpers, n.servers, n.paused = nil, nil, false
		return n.spawn()
	})
}

// end is for Close.
func (n *PatroniNode) end(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	err := n.kill(ctx)
	removeSharedMemory(pidFile(n.data))
	return err
}
