package bulk

import "sync"

// gate frees what a reader holds once nobody reads. A COPY that ends early does
// not wait for a Read that blocks; freeing is then that Read's last act.
type gate struct {
	free func()

	mu     sync.Mutex
	busy   bool
	closed bool
}

// enter begins a Read, unless it is too late for one.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy = !g.closed
	return g.busy
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy = false
	if g.closed {
		g.free()
	}
}

// close ends the reading, and reports whether nobody was about it. It may be
// called twice.
func (g *gate) close() (idle bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed && !g.busy {
		g.free()
	}
	g.closed = true
	return !g.busy
}
