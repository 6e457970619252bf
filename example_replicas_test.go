package pgkeel_test

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/cluster"
)

// Reads go to the replicas, writes to whichever server is the primary.
func ExampleWithReplicas() {
	ctx := context.Background()
	db, err := pgkeel.Open(ctx, os.Getenv("DATABASE_URL"),
		pgkeel.WithReplicas(os.Getenv("REPLICA_1"), os.Getenv("REPLICA_2")),
		pgkeel.WithCluster(cluster.Options{MaxLag: 10 * time.Second, Strategy: cluster.LeastConnections()}))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close(ctx)

	names, err := pgkeel.All[string](ctx, db.Reader(), "select name from users") // a replica
	if err != nil {
		log.Print(err)
	}
	_, err = db.Exec(ctx, "insert into greetings select unnest($1::text[])", names) // the primary
	if err != nil {
		log.Print(err)
	}
}

// What belongs to a session sees what the session wrote, also on a replica.
func ExampleWithSession() {
	var db *pgkeel.DB // opened with WithReplicas
	ctx := pgkeel.WithSession(context.Background(), pgkeel.NewSession())
	if _, err := db.Exec(ctx, "update users set name = 'Ada' where id = 7"); err != nil {
		log.Print(err)
	}
	name, err := pgkeel.One[string](ctx, db.Reader(), "select name from users where id = 7") // Ada
	if err != nil {
		log.Print(err)
	}
	log.Print(name)
}

// A report may be a little old, but not too old, and must not burden the primary.
func ExampleWithMaxLag() {
	var db *pgkeel.DB // opened with WithReplicas
	ctx := pgkeel.WithMaxLag(pgkeel.PreferReplica(context.Background()), time.Minute)
	err := db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		count, err := tx.QueryCount(ctx, "select count(*) from orders")
		log.Print(count)
		return err
	})
	if err != nil {
		log.Print(err)
	}
}
