package notify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// closeTimeout bounds the good-bye to the server.
const closeTimeout = time.Second

// connection is a connection that listens. Only the goroutine of run uses it.
type connection struct {
	l    *Listener
	conn providers.ListenConn
	// listening are the channels that the server listens to.
	listening map[string]bool
	born      time.Time
	heard     time.Time
}

// run serves the connection, and those after it, until the listener ends. Whose
// they are says origin, which has the values of the context of the start.
func (l *Listener) run(origin context.Context, c *connection) {
	pauses := newBackoff(l.opts.RetryMin, l.opts.RetryMax)
	for {
		err := c.serve(l.life)
		l.pid.Store(0)
		c.close()
		if l.life.Err() != nil {
			return
		}
		if errors.Is(err, providers.ErrPoolClosed) {
			l.end(fmt.Errorf("%w: %w", ErrClosed, err))
			return
		}
		lost := &gap{since: c.heard, err: err}
		l.opts.Logger.Warn("pgkeel: the listener lost its connection, and makes another", "error", err)
		pauses.lived(time.Since(c.born))
		if c = l.reconnect(origin, pauses, lost); c == nil {
			return
		}
	}
}

// reconnect connects again and again, until it works or the listener ends.
func (l *Listener) reconnect(origin context.Context, pauses *backoff, lost *gap) *connection {
	for attempt := 1; pauses.wait(l.life); attempt++ {
		// Those who were told that the server listens. Whoever joins them before
		// it does again, believes so, too.
		believers := l.ready()
		c, err := l.connect(origin)
		switch {
		case err == nil:
			l.counters.gaps.Add(1)
			l.tell(believers, lost)
			l.opts.Logger.Info("pgkeel: the listener is connected again", "attempts", attempt, "gap", time.Since(lost.since))
			return c
		case l.life.Err() != nil:
			return nil
		case errors.Is(err, providers.ErrPoolClosed):
			l.end(fmt.Errorf("%w: %w", ErrClosed, err))
			return nil
		case attempt&(attempt-1) == 0: // ever more rarely: an outage must not fill the log
			l.opts.Logger.Warn("pgkeel: the listener cannot connect, and goes on trying", "attempt", attempt, "error", err)
		}
	}
	return nil
}

// connect makes a connection that listens to all there is.
func (l *Listener) connect(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, l.opts.ConnectTimeout)
	defer cancel()
	defer context.AfterFunc(l.life, cancel)()
	conn, err := l.source.Listen(ctx, providers.ListenOptions{DSN: l.opts.DSN})
	if err != nil {
		l.counters.connectErrors.Add(1)
		return nil, err
	}
	c := &connection{l: l, conn: conn, listening: map[string]bool{}}
	l.mu.Lock()
	for name := range l.channels {
		l.changed[name] = struct{}{}
	}
	l.mu.Unlock()
	if err := c.sync(ctx); err != nil {
		l.counters.connectErrors.Add(1)
		c.close()
		return nil, err
	}
	l.counters.connects.Add(1)
	c.born = time.Now()
	c.hear(c.born)
	l.pid.Store(conn.PID())
	return c, nil
}

func (c *connection) hear(now time.Time) {
	c.heard = now
	c.l.heard.Store(now.UnixNano())
}

// serve reads notifications until the connection fails or the context ends.
func (c *connection) serve(ctx context.Context) error {
	for {
		wait, stop := c.await(ctx)
		err := c.read(wait)
		stop()
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if err := c.sync(ctx); err != nil {
			return err
		}
		if err := c.beat(ctx); err != nil {
			return err
		}
	}
}

// await returns the context for reading: it ends when channels come or go, and
// when the connection may have been silent for too long.
func (c *connection) await(ctx context.Context) (context.Context, func()) {
	wait, cancel := context.WithCancel(ctx)
	c.l.mu.Lock()
	c.l.interrupt = cancel
	if len(c.l.changed) > 0 {
		cancel() // since the server was last told
	}
	c.l.mu.Unlock()
	stop := func() bool { return false }
	if interval := c.l.opts.HeartbeatInterval; interval > 0 {
		// One timer for many messages: whether there was silence at all is
		// looked at when it fires.
		stop = time.AfterFunc(time.Until(c.heard.Add(interval)), cancel).Stop
	}
	return wait, func() { stop(); cancel() }
}

// read hands on notifications until its context ends, which is no error.
func (c *connection) read(ctx context.Context) error {
	for ctx.Err() == nil {
		n, err := c.conn.WaitForNotification(ctx)
		if n == nil {
			if ctx.Err() == nil {
				return err
			}
			break // if the connection failed as well, its next use finds out
		}
		now := time.Now()
		c.hear(now)
		c.l.dispatch(n, now)
	}
	return nil
}

// beat makes a round trip if the connection was silent for too long.
func (c *connection) beat(ctx context.Context) error {
	interval := c.l.opts.HeartbeatInterval
	if interval <= 0 || time.Since(c.heard) < interval {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.l.opts.AnswerTimeout)
	defer cancel()
	c.l.counters.heartbeats.Add(1)
	if err := c.conn.Ping(ctx); err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	c.hear(time.Now())
	return nil
}

// syncAtOnce is how many channels are told to the server in one statement.
const syncAtOnce = 500

// sync tells the server which channels came and went.
func (c *connection) sync(ctx context.Context) error {
	for {
		names := c.l.takeChanges()
		if len(names) == 0 {
			return nil
		}
		for some := range slices.Chunk(names, syncAtOnce) {
			if err := c.listen(ctx, some); err != nil {
				return err
			}
		}
	}
}

// takeChanges returns the channels that came or went.
func (l *Listener) takeChanges() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(l.changed))
	for name := range l.changed {
		names = append(names, name)
	}
	clear(l.changed)
	return names
}

// listen makes the server listen to those of the channels that somebody
// subscribes to, and to the others no more.
func (c *connection) listen(ctx context.Context, names []string) error {
	var b strings.Builder
	now := make(map[string]bool, len(names))
	c.l.mu.Lock()
	for _, name := range names {
		wanted := c.l.channels[name] != nil
		if wanted == c.listening[name] {
			continue
		}
		now[name] = wanted
		if wanted {
			b.WriteString("listen " + quote(name) + ";")
		} else {
			b.WriteString("unlisten " + quote(name) + ";")
		}
	}
	c.l.mu.Unlock()
	var refused error
	if b.Len() > 0 {
		if refused = c.exec(ctx, b.String()); refused != nil && !isRefusal(refused) {
			return refused
		}
	}
	if refused != nil && len(names) > 1 {
		// One name at a time, to find the one: such as a letter that the
		// database's encoding does not have.
		for i := range names {
			if err := c.listen(ctx, names[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	c.listened(names, now, refused)
	return nil
}

// listened notes what the server does now, and lets those know who wait for it.
func (c *connection) listened(names []string, now map[string]bool, refused error) {
	if refused != nil {
		c.l.refuse(names[0], refused)
		return
	}
	for name, wanted := range now {
		if wanted {
			c.listening[name] = true
		} else {
			delete(c.listening, name)
		}
	}
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	for _, name := range names {
		if ch := c.l.channels[name]; ch != nil && c.listening[name] && !ch.isReady() {
			close(ch.ready)
		}
	}
}

// refuse ends the subscriptions of a channel that the server does not take.
// Whoever comes next may try again.
func (l *Listener) refuse(name string, err error) {
	l.mu.Lock()
	c := l.channels[name]
	var subs []*Subscription
	if c != nil {
		subs = slices.Clone(c.subs)
	}
	l.mu.Unlock()
	for _, s := range subs {
		s.detach()
		s.end(err)
	}
}

// isRefusal reports whether the server refused the statement and the connection
// can go on.
func isRefusal(err error) bool {
	var pg *providers.PGError
	return errors.As(err, &pg) && pg.Severity == "ERROR" && !pg.IsReadOnly() && !pg.IsConnectionError() && !pg.IsQueryCanceled()
}

func (c *connection) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, c.l.opts.AnswerTimeout)
	defer cancel()
	if err := c.conn.Exec(ctx, sql); err != nil {
		return err
	}
	c.hear(time.Now())
	return nil
}

// close says good-bye, also when the listener's context has ended.
func (c *connection) close() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.l.life), closeTimeout)
	defer cancel()
	_ = c.conn.Close(ctx) // what is lost with it is in the gap
}

// dispatch puts a notification into the queue of each subscriber. It never
// waits for any of them.
func (l *Listener) dispatch(n *pgconn.Notification, now time.Time) {
	m := &message{payload: n.Payload, pid: n.PID, received: now}
	l.counters.received.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.channels[n.Channel]; c != nil {
		for _, s := range c.subs {
			s.q.put(m)
		}
	}
}

// ready are the channels whose subscribers were told that the server listens.
func (l *Listener) ready() []*channel {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ready []*channel
	for _, c := range l.channels {
		if c.isReady() {
			ready = append(ready, c)
		}
	}
	return ready
}

// tell tells all subscribers of the channels of a gap.
func (l *Listener) tell(channels []*channel, g *gap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range channels {
		for _, s := range c.subs {
			s.q.mark(g)
		}
	}
}
