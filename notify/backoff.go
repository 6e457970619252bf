package notify

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is the pause before the next attempt.
type backoff struct {
	lowest, highest time.Duration
	// next is the longest that the next pause may be, last is the last one.
	next, last time.Duration
}

func newBackoff(lowest, highest time.Duration) *backoff {
	return &backoff{lowest: lowest, highest: highest, next: lowest}
}

// pause is how long to wait now: between a half and the whole of what it may be.
func (b *backoff) pause() time.Duration {
	longest := b.next
	b.next = b.highest
	if longest <= b.highest/2 { // or doubling could overflow
		b.next = 2 * longest
	}
	b.last = longest - rand.N(longest/2+1) //nolint:gosec // to spread, not to hide
	return b.last
}

// lived starts over after a connection that lasted longer than the pause before
// it. One that is lost at once, again and again, is left to the growing pause.
func (b *backoff) lived(d time.Duration) {
	if d >= b.last {
		b.next = b.lowest
	}
}

// wait waits for a pause. It is false when the context ended first.
func (b *backoff) wait(ctx context.Context) bool {
	timer := time.NewTimer(b.pause())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
