package cluster_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/pgkeel/pgkeel/cluster"
	"github.com/pgkeel/pgkeel/providers"
)

// The replicas of the program's own zone first, and of those the one that answers
// soonest.
func ExampleNearestZone() {
	_ = cluster.Options{
		Discovery: cluster.Patroni("http://db1:8008", "http://db2:8008"), // a tag says the zone of each
		Strategy:  cluster.NearestZone("eu-west-1a", cluster.LowestLatency()),
	}
	// Output:
}

// leastLag is a strategy of one's own.
type leastLag struct{}

func (leastLag) Choose(replicas []*cluster.Replica) int {
	best := 0
	for i, r := range replicas {
		if r.Lag() < replicas[best].Lag() {
			best = i
		}
	}
	return best
}

func ExampleStrategy() {
	_ = cluster.Options{Strategy: leastLag{}}
	// Output:
}

// Servers with a zone and a weight each, read from where the program finds them.
func ExampleFunc() {
	_ = cluster.Options{Discovery: cluster.Func(func(context.Context, providers.Querier) ([]cluster.Host, error) {
		return []cluster.Host{
			{DSN: os.Getenv("REPLICA_1"), Zone: "a", Weight: 3},
			{Address: "db3.internal:5433", Zone: "b"}, // else as the handle's DSN
		}, nil
	})}
	// Output:
}

func ExampleDNS() {
	standbys := cluster.DNS("standbys.db.internal:5433", nil)
	withNames := cluster.DNS("_postgresql._tcp.db.internal", nil) // for sslmode=verify-full
	_ = cluster.Options{Discovery: cluster.Combine(standbys, withNames)}
	// Output:
}

func ExampleStatReplication() {
	_ = cluster.Options{Discovery: cluster.StatReplication(func(s cluster.Standby) (cluster.Host, bool) {
		return cluster.Host{Address: s.Name + ".db.internal:5432"}, true
	})}
	// Output:
}

func ExamplePatroniWith() {
	client := &http.Client{
		Timeout:   time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13}}, // and certificates
	}
	_ = cluster.Options{Discovery: cluster.PatroniWith(client, "https://db1:8008", "https://db2:8008")}
	// Output:
}

// A token goes where the session cannot: into a message, a cookie, a job's row.
func ExampleSession_Token() {
	sender := cluster.NewSession()
	ctx := cluster.WithSession(context.Background(), sender)
	providers.CausalityOf(ctx).Note(providers.Position{System: 0x68c1b3a29f5e0d17, Timeline: 2, LSN: 0x3000060}, true) // as a write does
	message := sender.Token()
	fmt.Println(message)

	receiver := cluster.NewSession()
	if err := receiver.Merge(message); err != nil {
		return
	}
	fmt.Println(receiver.Token() == message)
	// Output:
	// 1.68c1b3a29f5e0d17.2.3000060
	// true
}
