package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/notify"
)

const (
	// listenerKills is how often the listener's connection is killed, and
	// betweenKills how many notifications it hears before.
	listenerKills = 10
	betweenKills  = 500
	// news is the channel.
	news = "news of places"
	// lastNews ends the scene for those who listen.
	lastNews = "that was all"
)

// notifications sends without a pause while the listener's connection is killed
// again and again. What is sent as a notification may be lost, and then a gap
// says so; what goes through the outbox is not.
func notifications(ctx context.Context, e *environment) error {
	db, err := e.open(ctx, "", e.cluster.Primary(), appName+"-listener", pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 4}))
	if err != nil {
		return err
	}
	outbox := notify.Outbox{Table: pgx.Identifier{"news_outbox"}, Logger: e.logger}
	if err := outbox.Create(ctx, db); err != nil {
		return fmt.Errorf("make the outbox: %w", err)
	}
	// That it loses its connections is what the scene is about, no news.
	l, err := db.Listen(ctx, notify.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { _ = l.Close(ctx) }() // a handler there is none to wait for
	s, err := l.Subscribe(ctx, news, notify.Queue{Size: 1_000_000})
	if err != nil {
		return err
	}
	n := &newsroom{db: db, outbox: outbox, l: l}
	err = together(ctx, 4, func(ctx context.Context, i int) error {
		return []func(ctx context.Context) error{
			n.send,
			func(ctx context.Context) error { return n.kill(ctx, e.observer) },
			func(ctx context.Context) error { return n.listen(ctx, s) },
			n.follow,
		}[i](ctx)
	})
	if err != nil {
		return err
	}
	n.report(ctx, e)
	return nil
}

// newsroom is what the scene counts.
type newsroom struct {
	db     *pgkeel.DB
	outbox notify.Outbox
	l      *notify.Listener

	killed atomic.Bool // as often as planned
	sent   int
	took   []time.Duration // to be back after each kill

	heard, missing, gaps int
	unsaid               int // missing, and no gap says so
	followed             int
	wrong                int // twice, or out of order
}

// send sends news, each of them both ways and in one transaction.
func (n *newsroom) send(ctx context.Context) error {
	publish := func(text string) error {
		return n.db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			if _, err := n.outbox.Publish(ctx, tx, news+", for certain", text); err != nil {
				return err
			}
			return notify.Notify(ctx, tx, news, text)
		})
	}
	for !n.killed.Load() {
		if err := publish(strconv.Itoa(n.sent)); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		n.sent++
	}
	return publish(lastNews)
}

// kill ends the listener's connection on the server, and waits until there is
// another one.
func (n *newsroom) kill(ctx context.Context, observer *pgkeel.DB) error {
	defer n.killed.Store(true)
	for range listenerKills {
		begin := n.l.Stats().Received
		_, err := until(ctx, wholeWithin, func(context.Context) (bool, error) {
			return n.l.Stats().Received >= begin+betweenKills, nil
		})
		if err != nil {
			return fmt.Errorf("wait for notifications: %w", err)
		}
		before := n.l.Stats()
		if _, err := observer.Exec(ctx, `select pg_terminate_backend($1)`, before.PID); err != nil {
			return fmt.Errorf("kill the listener: %w", err)
		}
		took, err := until(ctx, wholeWithin, func(context.Context) (bool, error) {
			now := n.l.Stats()
			return now.Gaps > before.Gaps && now.Connected && now.Received > before.Received, nil
		})
		if err != nil {
			return fmt.Errorf("wait for the listener: %w", err)
		}
		n.took = append(n.took, took)
	}
	return nil
}

// listen hears the notifications.
func (n *newsroom) listen(ctx context.Context, s *notify.Subscription) error {
	next, excused := 0, false
	for {
		event, err := s.Next(ctx)
		switch {
		case err != nil:
			return err
		case event.Kind == notify.Gap:
			n.gaps++
			excused = true
			continue
		case event.Kind != notify.Message:
			return fmt.Errorf("the queue was too small: %d dropped", event.Lost)
		case event.Payload == lastNews:
			return nil
		}
		number, err := strconv.Atoi(event.Payload)
		if err != nil || number < next {
			n.wrong++
			continue
		}
		if !excused {
			n.unsaid += number - next
		}
		n.missing += number - next
		n.heard++
		next, excused = number+1, false
	}
}

// follow reads the outbox.
func (n *newsroom) follow(ctx context.Context) error {
	for record, err := range n.outbox.Follow(ctx, n.db, n.l, news+", for certain", notify.Position{}) {
		switch {
		case err != nil:
			return err
		case record.Payload == lastNews:
			return nil
		case record.Payload != strconv.Itoa(n.followed):
			n.wrong++
		}
		n.followed++
	}
	return errors.New("the outbox ended")
}

func (n *newsroom) report(ctx context.Context, e *environment) {
	slices.Sort(n.took)
	e.out.line("%s sent while the listener's connection was killed %d times; it heard again after %s at the median, %s at most",
		plural(n.sent, "notification", "notifications"), listenerKills, short(n.took[len(n.took)/2]), short(n.took[len(n.took)-1]))
	e.check(ctx, n.gaps > 0 && n.unsaid == 0, "%s heard, %s missing, each of them at one of %s",
		count(n.heard), count(n.missing), plural(n.gaps, "gap that was told", "gaps that were told"))
	e.check(ctx, n.followed == n.sent && n.wrong == 0, "through the outbox came every one, once and in order: %s of %s",
		count(n.followed), count(n.sent))
}
