package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/notify"
)

// notifications are scenarios of LISTEN and NOTIFY. The sender is a bare
// connection on both sides, so they differ in how they receive: the baseline is
// WaitForNotification, and what one writes around it by hand where several want
// to hear.
func notifications() []Scenario {
	return []Scenario{
		{
			Name: "notify", About: "a notification, from sender to subscriber; the baseline is WaitForNotification",
			Bar: Bar{Added: 50 * time.Microsecond}, Ours: notifyOne, Baseline: bareOne,
		},
		fanOut("notify.1", 1, 1000, 20*time.Millisecond),
		fanOut("notify.100", 100, 10, 20*time.Millisecond),
		fanOut("notify.10k", 10_000, 1, 100*time.Millisecond),
	}
}

// fanOut sends count notifications in one transaction to many subscribers. An
// operation takes milliseconds, so a turn must be longer than usual.
func fanOut(name string, subscribers, count int, slice time.Duration) Scenario {
	return Scenario{
		Name: name, Slice: slice, About: fmt.Sprintf("%d at once to subscribers: %d; the baseline hands on to Go channels", count, subscribers),
		Ours: notifyAll(subscribers, count), Baseline: bareAll(subscribers, count),
	}
}

// benchPayload is what is sent.
const benchPayload = "order 4711 was paid"

// sender sends notifications on a connection of its own.
type sender struct {
	conn    *pgx.Conn
	channel string
}

// newSender connects, and makes up a channel that nobody else has.
func newSender(ctx context.Context, site Site, side int) (*sender, error) {
	conn, err := pgx.Connect(ctx, site.DSN)
	if err != nil {
		return nil, err
	}
	return &sender{conn: conn, channel: fmt.Sprintf("%s %d", site.Schema, side)}, nil
}

func (s *sender) send(ctx context.Context, count int) error {
	if count == 1 {
		_, err := s.conn.Exec(ctx, `select pg_notify($1, $2)`, s.channel, benchPayload)
		return err
	}
	// Equal ones would be sent once.
	_, err := s.conn.Exec(ctx, `select count(pg_notify($1, $2 || i)) from generate_series(1, $3::int) i`, s.channel, benchPayload, count)
	return err
}

func (s *sender) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	return s.conn.Close(ctx)
}

// ourListener is a listener of a handle of its own.
func ourListener(ctx context.Context, site Site) (*notify.Listener, func(ctx context.Context) error, error) {
	db, err := pgkeel.Open(ctx, site.DSN)
	if err != nil {
		return nil, nil, err
	}
	l, err := db.Listen(ctx, notify.Options{Queue: notify.Queue{Size: 4096}})
	stop := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
		defer cancel()
		if l == nil {
			return db.Close(ctx)
		}
		return errors.Join(l.Close(ctx), db.Close(ctx))
	}
	if err != nil {
		return nil, nil, errors.Join(err, stop(ctx))
	}
	return l, stop, nil
}

// bareListener is a bare connection that listens.
func bareListener(ctx context.Context, site Site, channel string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, site.DSN)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, `listen `+pgx.Identifier{channel}.Sanitize()); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

func notifyOne(ctx context.Context, site Site) (Side, error) {
	from, err := newSender(ctx, site, ours)
	if err != nil {
		return Side{}, err
	}
	l, stop, err := ourListener(ctx, site)
	if err != nil {
		return Side{}, errors.Join(err, from.close(ctx))
	}
	done := func(ctx context.Context) error { return errors.Join(from.close(ctx), stop(ctx)) }
	s, err := l.Subscribe(context.WithoutCancel(ctx), from.channel)
	if err != nil {
		return Side{}, errors.Join(err, done(ctx))
	}
	return Side{Close: done, Op: func(ctx context.Context, _, _ int) error {
		if err := from.send(ctx, 1); err != nil {
			return err
		}
		e, err := s.Next(ctx)
		if err == nil && (e.Kind != notify.Message || e.Payload != benchPayload) {
			err = fmt.Errorf("got %v instead of what was sent", e.Kind)
		}
		return err
	}}, nil
}

func bareOne(ctx context.Context, site Site) (Side, error) {
	from, err := newSender(ctx, site, baseline)
	if err != nil {
		return Side{}, err
	}
	conn, err := bareListener(ctx, site, from.channel)
	if err != nil {
		return Side{}, errors.Join(err, from.close(ctx))
	}
	return Side{
		Close: func(ctx context.Context) error { return errors.Join(from.close(ctx), conn.Close(ctx)) },
		Op: func(ctx context.Context, _, _ int) error {
			if err := from.send(ctx, 1); err != nil {
				return err
			}
			n, err := conn.WaitForNotification(ctx)
			if err == nil && n.Payload != benchPayload {
				err = errors.New("got something else instead of what was sent")
			}
			return err
		},
	}, nil
}

// arrivals counts down what is to arrive.
type arrivals struct {
	missing atomic.Int64
	all     chan struct{}
	failed  chan error
}

func newArrivals() *arrivals {
	return &arrivals{all: make(chan struct{}, 1), failed: make(chan error, 1)}
}

func (a *arrivals) one() {
	if a.missing.Add(-1) == 0 {
		a.all <- struct{}{}
	}
}

func (a *arrivals) fail(err error) {
	select {
	case a.failed <- err:
	default:
	}
}

// op sends, and waits until all of it arrived everywhere.
func (a *arrivals) op(from *sender, subscribers, count int) Op {
	return func(ctx context.Context, _, _ int) error {
		a.missing.Store(int64(subscribers * count))
		if err := from.send(ctx, count); err != nil {
			return err
		}
		select {
		case <-a.all:
			return nil
		case err := <-a.failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func notifyAll(subscribers, count int) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		from, err := newSender(ctx, site, ours)
		if err != nil {
			return Side{}, err
		}
		l, stop, err := ourListener(ctx, site)
		if err != nil {
			return Side{}, errors.Join(err, from.close(ctx))
		}
		done := func(ctx context.Context) error { return errors.Join(from.close(ctx), stop(ctx)) }
		a := newArrivals()
		for range subscribers {
			_, err := l.Handle(context.WithoutCancel(ctx), from.channel, func(_ context.Context, e notify.Event) {
				if e.Kind != notify.Message {
					a.fail(fmt.Errorf("%v instead of a message", e.Kind))
				}
				a.one()
			})
			if err != nil {
				return Side{}, errors.Join(err, done(ctx))
			}
		}
		return Side{Close: done, Op: a.op(from, subscribers, count)}, nil
	}
}

func bareAll(subscribers, count int) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		from, err := newSender(ctx, site, baseline)
		if err != nil {
			return Side{}, err
		}
		conn, err := bareListener(ctx, site, from.channel)
		if err != nil {
			return Side{}, errors.Join(err, from.close(ctx))
		}
		a := newArrivals()
		life, end := context.WithCancel(context.WithoutCancel(ctx))
		var working sync.WaitGroup
		working.Go(func() { handOn(life, conn, a, subscribers) })
		return Side{Op: a.op(from, subscribers, count), Close: func(ctx context.Context) error {
			end()
			working.Wait()
			return errors.Join(from.close(ctx), conn.Close(ctx))
		}}, nil
	}
}

// handOn is a listener as one writes it: no reconnecting, no limits.
func handOn(ctx context.Context, conn *pgx.Conn, a *arrivals, subscribers int) {
	var working sync.WaitGroup
	defer working.Wait()
	queues := make([]chan string, subscribers)
	for i := range queues {
		queues[i] = make(chan string, 64)
		defer close(queues[i])
		working.Go(func() {
			for range queues[i] {
				a.one()
			}
		})
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			a.fail(err)
			return
		}
		for _, q := range queues {
			q <- n.Payload
		}
	}
}
