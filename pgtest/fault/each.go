package fault

import (
	"fmt"
	"testing"
)

// EachMessage runs a scenario with a fault at each of its messages. It runs it
// undisturbed first; then with the action at the first message to the server, at
// the second, and so on to the last; then the same for those to the client, unless
// the action is about replies. Each run is a subtest with a proxy of its own
// before a database of its own, which newDB returns: pgtest.NewDB is one.
//
// What the scenario does through the proxy must be over when it returns, or in its
// cleanups. It is to check what its client was told against what the server says
// at [Proxy.Upstream]; [Proxy.Fired] tells whether there was a fault at all, which
// in the last run of each direction there was not.
func EachMessage(t *testing.T, newDB func(testing.TB) string, a Action, scenario func(t *testing.T, p *Proxy)) {
	t.Helper()
	if !t.Run("undisturbed", func(t *testing.T) { scenario(t, New(t, newDB(t))) }) {
		return
	}
	matches := []Match{Frontend(), Backend()}
	if a.losesReply() {
		matches = matches[:1]
	}
	for _, m := range matches {
		// How many there are is not fixed: a client that tries again sends more.
		for n, fired := 1, true; fired; n++ {
			rule := On(m.Nth(n), a)
			t.Run(fmt.Sprintf("%v/%d", m.direction, n), func(t *testing.T) { scenario(t, New(t, newDB(t), rule)) })
			fired = rule.Times() > 0
		}
	}
}
