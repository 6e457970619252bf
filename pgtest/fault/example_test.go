package fault_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/pgtest/fault"
)

// The server commits, and the client never hears of it.
func Example() {
	test := func(t *testing.T) { // func TestLostReply(t *testing.T)
		unheard := fault.On(fault.Commit(), fault.CutReply)
		p := fault.New(t, pgtest.NewDB(t), unheard)
		conn, err := pgx.Connect(t.Context(), p.DSN())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "begin; create table done (); commit"); err == nil {
			t.Error("the connection should be lost")
		}
		<-unheard.Fired()
		// The table is there: look at p.Upstream().
	}
	_ = test
}

// A fault at every message of a scenario, one after another.
func ExampleEachMessage() {
	test := func(t *testing.T) { // func TestTransfer(t *testing.T)
		fault.EachMessage(t, pgtest.NewDB, fault.Cut, func(t *testing.T, p *fault.Proxy) {
			conn, err := pgx.Connect(t.Context(), p.DSN())
			if err != nil {
				return // lost while connecting
			}
			defer conn.Close(t.Context())
			// Do the work, then hold what it said against the server at p.Upstream().
		})
	}
	_ = test
}
