package fault

// Cut closes all connections through the proxy. New ones pass.
func (p *Proxy) Cut() { p.closeAll(false) }

// Reset is like Cut, with a reset (RST) on either side instead of an orderly end.
// What was on the way may get lost.
func (p *Proxy) Reset() { p.closeAll(true) }

func (p *Proxy) closeAll(rst bool) {
	p.mu.Lock()
	var all []*session
	for s := range p.sessions {
		all = append(all, s)
	}
	p.mu.Unlock()
	for _, s := range all {
		s.close(rst)
	}
}

// BlackHole lets nothing pass in the direction any more, on no connection, also of
// those to come: a client can connect to the proxy and hears nothing. Nothing is
// closed, not even when one side closes.
func (p *Proxy) BlackHole(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole |= d
}

// Heal takes all rules away and ends all black holes. As after a network's outage,
// what was sent meanwhile passes now. A reply that was swallowed stays lost.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules, p.hole = nil, 0
	for s := range p.sessions {
		s.hole = 0
	}
	close(p.healed)
	p.healed = make(chan struct{})
}
