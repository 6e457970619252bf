package pgx

// trouble tells OnTrouble of an error that puts the server in doubt.
func (p *Pool) trouble(err error) {
	if p.cfg.OnTrouble != nil && !p.closing.Load() {
		p.cfg.OnTrouble(err)
	}
}
