// Package toxic makes the network between a program and PostgreSQL slow: latency
// with jitter, and little bandwidth, in each direction, changed while connections
// are running. Its [Proxy] is that of package fault, so that it can also cut,
// reset, open black holes, and break things at an exact message:
//
//	p := toxic.New(t, pgtest.NewDB(t), fault.On(fault.Commit(), fault.CutReply))
//	err := p.Latency(fault.Both, 20*time.Millisecond, 5*time.Millisecond)
//	db, err := pgkeel.Open(ctx, p.DSN())
//
// It is built of toxiproxy's toxics and the pipes they work in. Its proxy is not
// used: it leaves a goroutine behind for each connection that a client closes while
// the server sends, its black hole passes the end of a connection on, and it resets
// no connection that runs already. Its bandwidth toxic writes to standard error
// whenever it is interrupted, so that one is made here.
//
// It is a module of its own so that nobody's build carries toxiproxy who does not
// want it.
package toxic

import (
	"fmt"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2/toxics"

	"github.com/pgkeel/pgkeel/pgtest/fault"
)

// Proxy is a proxy of package fault behind a line that can be made slow. What
// comes in goes through the line before the proxy looks at it, so a rule fires
// when the message would arrive.
type Proxy struct {
	*fault.Proxy
	line *line
}

// New starts a proxy before the server of the DSN, and closes it when the test is
// over. It fails the test if it cannot start. See [fault.Start].
func New(t testing.TB, dsn string, options ...fault.Option) *Proxy {
	t.Helper()
	p, err := Start(dsn, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// Start starts a proxy before the server of the DSN, as [fault.Start] does, with
// the same errors. A [fault.Through] among the options has no effect.
func Start(dsn string, options ...fault.Option) (*Proxy, error) {
	l := newLine()
	p, err := fault.Start(dsn, append(options[:len(options):len(options)], fault.Through(l))...)
	if err != nil {
		return nil, err
	}
	return &Proxy{Proxy: p, line: l}, nil
}

// Latency has everything arrive later by the latency, give or take a random part
// of the jitter, in the order in which it was sent. A round trip takes twice that
// if the direction is [fault.Both]. It replaces what was set for the direction
// before; 0 ends it. Both are whole milliseconds, the jitter at most the latency.
func (p *Proxy) Latency(d fault.Direction, latency, jitter time.Duration) error {
	if latency%time.Millisecond != 0 || jitter%time.Millisecond != 0 || jitter < 0 || jitter > latency {
		return fmt.Errorf("toxic: latency %v and jitter %v: they must be whole milliseconds, and the jitter from 0 to the latency", latency, jitter)
	}
	if latency == 0 {
		return p.line.set(d, delaying, noToxic)
	}
	return p.line.set(d, delaying, &toxics.LatencyToxic{Latency: latency.Milliseconds(), Jitter: jitter.Milliseconds()})
}

// Bandwidth limits what passes on each connection to so many bytes a second. It
// replaces what was set for the direction before; 0 ends it.
func (p *Proxy) Bandwidth(d fault.Direction, bytes int) error {
	switch {
	case bytes < 0:
		return fmt.Errorf("toxic: a bandwidth of %d: it cannot be negative", bytes)
	case bytes == 0:
		return p.line.set(d, throttling, noToxic)
	}
	return p.line.set(d, throttling, &throttle{rate: bytes})
}

// Heal ends latency and limits, black holes and rules. See [fault.Proxy.Heal].
func (p *Proxy) Heal() {
	p.Proxy.Heal()
	p.line.clear()
}
