package fault

import (
	"errors"
	"fmt"
	"sync"
)

// Rule is a fault at a message. It keeps its count wherever it is used, so a rule
// is for one proxy.
type Rule struct {
	match  Match
	action Action
	fired  chan struct{}
	once   sync.Once

	mu          sync.Mutex
	seen, times int
}

// On makes a rule. [New], [Start] and [Proxy.Add] refuse one that makes no sense.
func On(m Match, a Action) *Rule {
	return &Rule{match: m, action: a, fired: make(chan struct{})}
}

// Fired is closed when the rule has fired for the first time and its action has
// been taken; for Delay and BlackHole, when it has begun.
func (r *Rule) Fired() <-chan struct{} { return r.fired }

// Times returns how often the rule has fired.
func (r *Rule) Times() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.times
}

// String describes the rule.
func (r *Rule) String() string { return fmt.Sprintf("%v: %v", r.match, r.action) }

func (r *Rule) apply(p *Proxy) error {
	if err := r.check(); err != nil {
		return err
	}
	p.rules = append(p.rules, r)
	return nil
}

func (r *Rule) check() error {
	if r == nil {
		return errors.New("fault: a rule that is nil")
	}
	err := r.match.check()
	switch {
	case err != nil:
	case r.action.kind == 0:
		err = errors.New("an Action that does nothing")
	case r.action.delay < 0:
		err = errors.New("a delay cannot be negative")
	case r.action.losesReply() && !r.match.replies:
		err = errors.New("only messages of the client have a reply: match with Frontend, SQL or Commit")
	}
	if err != nil {
		return fmt.Errorf("fault: rule %q: %w", r, err)
	}
	return nil
}

// takes reports whether the rule is to fire at the message.
func (r *Rule) takes(m Message) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.match.matches(m) {
		return false
	}
	r.seen++
	fires := r.seen == r.match.nth || r.match.every && r.seen > r.match.nth
	if fires {
		r.times++
	}
	return fires
}

// acted tells that the action has been taken.
func (r *Rule) acted() { r.once.Do(func() { close(r.fired) }) }
