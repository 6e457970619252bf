package notify

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// The pause before a look at records that wait for older transactions, and
	// after a failure to read, grows between these.
	followPauseMin = 10 * time.Millisecond
	followPauseMax = 500 * time.Millisecond
)

// Follow yields the records of a channel behind a position: first those that are
// there, then each as it is published, in order, each once, whatever becomes of
// the connections meanwhile. It ends with the context or the listener, and its
// last pair says how.
//
// The queries go through q, which is the handle (a transaction would see one
// moment for ever), and the reader sets the pace: however slow, nothing is
// dropped. Read failures that can pass, such as a server that is away, are
// logged and tried again; others end the loop. To go on later, follow from the
// Position of the last record dealt with. Who stores that in the transaction
// that deals with the record does so exactly once.
func (o Outbox) Follow(ctx context.Context, q providers.Querier, l *Listener, channel string, from Position) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		fail := func(at Position, err error) { yield(Record{Channel: channel, Position: at}, err) }
		if err := o.check(q); err != nil {
			fail(from, err)
			return
		}
		if l == nil {
			fail(from, refusal("Follow: the listener is nil"))
			return
		}
		// Subscribed before the first look, so that nothing falls in between. One
		// message is as good as many: all they say is to look again.
		s, err := l.Subscribe(ctx, channel, Queue{Size: 1, Overflow: DropNewest})
		if err != nil {
			fail(from, err)
			return
		}
		defer s.Close()
		f := &follower{
			Outbox: o, q: q, s: s, at: from, yield: yield, past: history{base: from},
			settle: newBackoff(followPauseMin, followPauseMax), retry: newBackoff(followPauseMin, followPauseMax),
		}
		if err := f.follow(ctx); err != nil && !f.left {
			fail(f.at, err)
		}
	}
}

// classNoRoom is that of the server's resources.
const classNoRoom = "53"

// follower is a Follow under way.
type follower struct {
	Outbox

	q     providers.Querier
	s     *Subscription
	at    Position
	yield func(Record, error) bool
	// left says that the loop was left, and must not be called again.
	left          bool
	settle, retry *backoff
	past          history
	// interrupted says that a connection was lost, and maybe a server.
	interrupted bool
}

func (f *follower) follow(ctx context.Context) error {
	for {
		unsettled, err := f.catchUp(ctx)
		switch {
		case f.left || f.over():
			return f.s.Err()
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !canPass(err):
			return err
		case err != nil:
			f.interrupted = true
			f.logger().Warn("pgkeel: an outbox cannot be read, and is tried again", "channel", f.s.Channel(), "error", err)
			f.wait(ctx, f.retry.pause())
		case unsettled:
			f.wait(ctx, f.settle.pause())
		default:
			f.settle.next, f.retry.next = followPauseMin, followPauseMin
			f.wait(ctx, providers.OrDefault(f.PollInterval, DefaultOutboxPoll, 0))
		}
	}
}

// over reports whether the subscription has ended.
func (f *follower) over() bool { return f.s.Err() != nil }

// catchUp yields all that is there, and reports whether records wait for older
// transactions.
func (f *follower) catchUp(ctx context.Context) (bool, error) {
	if f.interrupted {
		if err := f.compare(ctx); err != nil {
			return false, err
		}
		f.interrupted = false
	}
	for {
		page, more, unsettled, err := f.page(ctx, f.q, f.s.Channel(), f.at)
		if err != nil {
			return false, err
		}
		for _, r := range page {
			if f.over() {
				return false, nil
			}
			d := newDelivered(r.Position, r.Created)
			if !f.past.repeated(d) {
				if f.left = !f.yield(r, nil); f.left {
					return false, nil
				}
			}
			f.at = r.Position
			f.past.add(d)
			f.settle.next = followPauseMin
		}
		if !more {
			return unsettled, nil
		}
	}
}

// wait waits for an event of whatever kind, or for a time; 0 is for ever.
func (f *follower) wait(ctx context.Context, atMost time.Duration) {
	woken := false
	for {
		e, ok, err := f.s.q.take()
		if err != nil {
			return
		}
		if !ok {
			break
		}
		woken = true // all that is there is one reason to look
		f.interrupted = f.interrupted || e.Kind == Gap
	}
	if woken {
		return
	}
	if atMost > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, atMost)
		defer cancel()
	}
	// Whichever way it ends: look.
	e, err := f.s.Next(ctx)
	f.interrupted = f.interrupted || err == nil && e.Kind == Gap
}

// canPass reports whether a failure to read may be over at the next attempt: the
// server was away, or had no room, or somebody or a limit cancelled the statement.
func canPass(err error) bool {
	if errors.Is(err, providers.ErrPoolClosed) {
		return false
	}
	if pg := providers.NewPGError(err); pg != nil {
		return pg.IsConnectionError() || pg.IsRetryable() || pg.IsQueryCanceled() || strings.HasPrefix(pg.Code, classNoRoom)
	}
	var config *providers.ConfigError
	return !errors.As(err, &config)
}
