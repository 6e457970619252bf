package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// Proxy stands between clients and a server, on a free port of 127.0.0.1. Without
// rules it passes everything on. All of it may be used from several goroutines.
type Proxy struct {
	upstream *upstream
	listener net.Listener
	dialing  context.Context
	end      context.CancelFunc
	running  sync.WaitGroup
	line     Line

	mu       sync.Mutex
	closed   bool
	rules    []*Rule
	fired    []*Rule
	sessions map[*session]struct{}
	hole     Direction
	healed   chan struct{}
	count    map[Direction]int
}

// Option is what a proxy starts with: a [Rule], or a [Line] by [Through].
type Option interface{ apply(p *Proxy) error }

// Line is what lies between the two ends of a connection and the proxy: a way to
// make it slow.
type Line interface {
	// Lay returns a reader of what is read from the other, later or in another
	// rhythm. One is laid for each direction of each connection. Its Close is
	// called once, after the connection was closed; it must end a Read that is
	// under way and return when nothing of the line runs any more.
	Lay(d Direction, from io.Reader) io.ReadCloser
}

// Through has what passes the proxy go through a line first.
func Through(l Line) Option { return lineOption{l} }

type lineOption struct{ Line }

func (o lineOption) apply(p *Proxy) error {
	if o.Line == nil {
		return errors.New("fault: Through needs a Line")
	}
	p.line = o.Line
	return nil
}

// New starts a proxy before the server of the DSN, and closes it when the test is
// over. It fails the test if it cannot start. See [Start].
func New(t testing.TB, dsn string, options ...Option) *Proxy {
	t.Helper()
	p, err := Start(dsn, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// Start starts a proxy before the server of the DSN, which may be a URL or a list
// of keywords and values, and lead to TCP or a unix socket. It fails if the DSN
// cannot be read, names several servers or insists on TLS, or if a rule makes no
// sense. That the server cannot be reached shows when a client connects: it is
// closed at once.
func Start(dsn string, options ...Option) (*Proxy, error) {
	up, err := parse(dsn)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		upstream: up,
		sessions: map[*session]struct{}{},
		healed:   make(chan struct{}),
		count:    map[Direction]int{},
	}
	for _, o := range options {
		if o == nil {
			return nil, errors.New("fault: an option that is nil")
		}
		if err := o.apply(p); err != nil {
			return nil, err
		}
	}
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("fault: %w", err)
	}
	p.dialing, p.end = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	return p, nil
}

// DSN returns the DSN that leads through the proxy: the one it was started with,
// with another address.
func (p *Proxy) DSN() string { return p.upstream.through(p.listener.Addr().(*net.TCPAddr)) }

// Upstream returns the DSN that the proxy was started with, to look at the server
// past the proxy.
func (p *Proxy) Upstream() string { return p.upstream.dsn }

// Add adds rules, which count from now on. If one makes no sense, none is added.
func (p *Proxy) Add(rules ...*Rule) error {
	for _, r := range rules {
		if err := r.check(); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, rules...)
	return nil
}

// Remove takes rules away. What they have begun goes on.
func (p *Proxy) Remove(rules ...*Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = slices.DeleteFunc(p.rules, func(r *Rule) bool { return slices.Contains(rules, r) })
}

// Fired returns the rules that have fired, in that order, each as often as it has.
// A rule is there before anybody can see what it does; [Rule.Fired] waits for that.
func (p *Proxy) Fired() []*Rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.fired)
}

// Count returns how many messages have come to the proxy in a direction so far,
// those of the authentication included, those of the startup before it not.
func (p *Proxy) Count(d Direction) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[d&ToServer] + p.count[d&ToClient]
}

// Close ends the proxy and all connections through it, and returns when nothing of
// it is left. Its error is always nil; it may be called again.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listener.Close()
	p.end()
	p.Cut()
	p.running.Wait()
	return nil
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // it was closed
		}
		if s := p.enter(client); s != nil {
			p.running.Go(s.serve)
		}
	}
}

// enter makes a session of a connection, unless the proxy was closed.
func (p *Proxy) enter(client net.Conn) *session {
	s := newSession(p, client)
	p.mu.Lock()
	if !p.closed {
		p.sessions[s] = struct{}{}
	}
	closed := p.closed
	p.mu.Unlock()
	if closed {
		s.close(false)
		return nil
	}
	return s
}

func (p *Proxy) leave(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, s)
}

// judge counts a message and returns the rules that fire at it.
func (p *Proxy) judge(m Message) []*Rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.Type != 0 {
		p.count[m.Direction]++
	}
	var fire []*Rule
	for _, r := range p.rules {
		if r.takes(m) {
			fire = append(fire, r)
		}
	}
	// Whoever sees what a rule did must find it here.
	p.fired = append(p.fired, fire...)
	return fire
}
