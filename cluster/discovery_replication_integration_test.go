package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgkeel/pgkeel/pgtest"
)

func connectTo(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func mustExec(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// receive has a connection of its own receive the log, as the program of that name
// does, or a subscriber.
func receive(t *testing.T, dsn, program string, commands ...string) {
	t.Helper()
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["replication"] = "database"
	cfg.RuntimeParams["application_name"] = program
	conn, err := pgconn.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	for _, command := range commands {
		conn.Frontend().Send(&pgproto3.Query{String: command})
		if err := conn.Frontend().Flush(); err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			message, err := conn.ReceiveMessage(t.Context())
			if err != nil {
				t.Fatalf("%s: %v", command, err)
			}
			switch message.(type) {
			case *pgproto3.CopyBothResponse, *pgproto3.ReadyForQuery:
				done = true
			}
		}
	}
}

// awaitThat waits for what a server does in its own time.
func awaitThat(t *testing.T, what string, is func() bool) {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("in a minute it did not happen: %s", what)
		}
	}
}

func TestStatReplication(t *testing.T) {
	servers := pgtest.New(t, pgtest.Options{Standbys: 2, Settings: map[string]string{"wal_level": "logical"}})
	primary := connectTo(t, servers.Primary().DSN(""))
	byName := StatReplication(func(s Standby) (Host, bool) { return Host{Address: s.Name + ":5432", Zone: s.State}, true })
	first, second := servers.Standbys()[0], servers.Standbys()[1]
	found := func(d Discovery) (string, error) {
		hosts, err := d.Discover(t.Context(), primary)
		return addressesOf(hosts), err
	}

	// The kit's standbys connect through a socket, which is no address.
	if got, err := found(StatReplication(nil)); got != "" || err == nil || !strings.Contains(err.Error(), "Unix socket") {
		t.Errorf("%q, %v", got, err)
	}
	both := fmt.Sprintf("%s:5432(streaming 0) %s:5432(streaming 0)", first.Name(), second.Name())
	awaitThat(t, "both standbys stream", func() bool { got, err := found(byName); return got == both && err == nil })

	// One comes over TCP: its address is known, and the other is complained of.
	mustExec(t, connectTo(t, first.DSN("")),
		fmt.Sprintf("alter system set primary_conninfo = 'host=127.0.0.1 port=%d user=postgres application_name=%s'",
			servers.Primary().Port(), first.Name()),
		"select pg_reload_conf()")
	awaitThat(t, "a standby comes over TCP", func() bool { got, err := found(StatReplication(nil)); return got == "127.0.0.1" && err != nil })
	if err := second.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the other one is gone", func() bool { got, err := found(StatReplication(nil)); return got == "127.0.0.1" && err == nil })

	// Others receive the log as well, and are no servers.
	var position string
	if err := primary.QueryRow(t.Context(), "select pg_current_wal_lsn()").Scan(&position); err != nil {
		t.Fatal(err)
	}
	mustExec(t, primary, "create publication all_of_it")
	dsn := servers.Primary().DSN("")
	receive(t, dsn, "pg_receivewal", "START_REPLICATION PHYSICAL "+position)
	receive(t, dsn, "subscriber", "CREATE_REPLICATION_SLOT subscriber TEMPORARY LOGICAL pgoutput",
		"START_REPLICATION SLOT subscriber LOGICAL 0/0 (proto_version '1', publication_names 'all_of_it')")
	var walsenders int
	if err := primary.QueryRow(t.Context(), "select count(*) from pg_stat_replication").Scan(&walsenders); err != nil || walsenders != 3 {
		t.Fatal(walsenders, err)
	}
	if got, err := found(StatReplication(nil)); got != "127.0.0.1" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := found(byName); got != first.Name()+":5432(streaming 0) pg_receivewal:5432(streaming 0)" && got !=
		first.Name()+":5432(streaming 0) pg_receivewal:5432(catchup 0)" || err != nil {
		t.Errorf("a function hears of all but subscribers: %q, %v", got, err)
	}

	// Who may not see the standbys is told so, and how to mend it.
	mustExec(t, primary, "create role plain login", "create role monitor login in role pg_monitor")
	for role, good := range map[string]bool{"plain": false, "monitor": true} {
		cfg, err := pgx.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		cfg.User = role
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		hosts, err := StatReplication(nil).Discover(t.Context(), conn)
		if good != (err == nil) || good != (len(hosts) == 1) || !good && (!errors.Is(err, errHidden) || !strings.Contains(err.Error(), "pg_monitor")) {
			t.Errorf("%s: %v, %v", role, hosts, err)
		}
		_ = conn.Close(t.Context())
	}
}

func TestStatReplicationWithoutAPrimary(t *testing.T) {
	if hosts, err := StatReplication(nil).Discover(t.Context(), nil); hosts != nil || err == nil || !strings.Contains(err.Error(), "no primary") {
		t.Errorf("%v, %v", hosts, err)
	}
	conn := connectTo(t, pgtest.NewDB(t))
	_ = conn.Close(t.Context())
	if hosts, err := StatReplication(nil).Discover(t.Context(), conn); hosts != nil || err == nil {
		t.Errorf("%v, %v", hosts, err)
	}
}
