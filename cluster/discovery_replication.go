package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

// Standby is what the primary tells of a server that receives its log.
type Standby struct {
	// Name is its application_name: cluster_name of the standby, unless its
	// primary_conninfo has another.
	Name string
	// Addr is where it connected from. It is not valid if that was a Unix socket.
	Addr netip.Addr
	// Hostname is the name of the address, if log_hostname is on.
	Hostname string
	// State is "streaming", or "catchup", "startup", "backup", "stopping".
	State string
	// Sync is "async", "potential", "sync" or "quorum".
	Sync string
}

// StatReplication is the standbys that are connected to the primary, by its
// pg_stat_replication. The role that connects must be a member of pg_monitor or
// pg_read_all_stats.
//
// The primary knows where a standby came from, not where it listens. locate makes a
// [Host] of what it knows, and returns false for what is not to be used. nil is the
// address with the first port of the handle's DSN, of everything but a running
// pg_basebackup or pg_receivewal. Where standbys listen on other ports, or behind
// other addresses, give a function:
//
//	cluster.StatReplication(func(s cluster.Standby) (cluster.Host, bool) {
//		return cluster.Host{Address: s.Name + ".db.internal:5432"}, true
//	})
//
// A standby that is not connected is not found, and neither is one that follows
// another standby. So the DSN should name the servers that may become the primary.
func StatReplication(locate func(s Standby) (h Host, ok bool)) Discovery {
	return statReplication{locate}
}

type statReplication struct {
	locate func(Standby) (Host, bool)
}

// A logical subscriber stands in pg_stat_replication too, and always has a slot.
const standbysQuery = `
select coalesce(r.application_name, ''), host(r.client_addr), coalesce(r.client_hostname, ''), r.state, coalesce(r.sync_state, '')
from pg_catalog.pg_stat_replication r
where not exists (
	select from pg_catalog.pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')
order by 1, 2, 3, r.pid`

// Discover asks the primary.
func (d statReplication) Discover(ctx context.Context, primary providers.Querier) ([]Host, error) {
	if primary == nil {
		return nil, errors.New("pgkeel: cluster: the standbys cannot be asked for: no primary is known")
	}
	rows, err := primary.Query(ctx, standbysQuery)
	if err != nil {
		return nil, fmt.Errorf("pgkeel: cluster: pg_stat_replication: %w", err)
	}
	standbys, err := pgx.CollectRows(rows, scanStandby)
	if err != nil {
		return nil, fmt.Errorf("pgkeel: cluster: pg_stat_replication: %w", err)
	}
	return d.hosts(standbys)
}

var errHidden = errors.New("the server does not show the standbys to this role; grant it pg_monitor or pg_read_all_stats")

func scanStandby(row pgx.CollectableRow) (s Standby, err error) {
	var address, state *string
	if err := row.Scan(&s.Name, &address, &s.Hostname, &state, &s.Sync); err != nil {
		return s, err
	}
	if state == nil {
		// Every walsender has one. Only who may not see it gets a null.
		return s, errHidden
	}
	s.State = *state
	if address != nil {
		s.Addr, err = netip.ParseAddr(*address)
	}
	return s, err
}

// hosts are the standbys as hosts, each once, besides an error for those that have
// no address.
func (d statReplication) hosts(standbys []Standby) (hosts []Host, err error) {
	locate := d.locate
	if locate == nil {
		locate = atItsAddress
	}
	for _, s := range standbys {
		if h, ok := locate(s); ok {
			hosts = append(hosts, h)
		} else if d.locate == nil && isServer(s) {
			err = fmt.Errorf("pgkeel: cluster: the standby %q is connected through a Unix socket, which does not tell "+
				"where it listens; give StatReplication a function that knows", s.Name)
		}
	}
	return union([][]Host{hosts}), err
}

func atItsAddress(s Standby) (Host, bool) {
	return Host{Address: s.Addr.String()}, isServer(s) && s.Addr.IsValid()
}

// isServer tells standbys from the programs that receive the log as they do.
func isServer(s Standby) bool {
	return s.State != "backup" && s.Name != "pg_basebackup" && s.Name != "pg_receivewal"
}
