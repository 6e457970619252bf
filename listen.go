package pgkeel

import (
	"context"
	"errors"

	"github.com/pgkeel/pgkeel/notify"
	"github.com/pgkeel/pgkeel/providers"
)

// Listen starts a listener for notifications: one connection of its own beside
// the pool, which looks after itself. Close the listener; closing the handle
// ends it as well. See package notify for what it does, and for Notify.
//
// It fails when the first connection cannot be made, and with
// [errors.ErrUnsupported] by a provider that has no LISTEN.
func (db *DB) Listen(ctx context.Context, options notify.Options) (*notify.Listener, error) {
	pool, ok := db.pool.(providers.Listener)
	if !ok {
		return nil, refusef("Listen: %w by this provider", errors.ErrUnsupported)
	}
	l, err := notify.New(pool, options)
	if err != nil {
		return nil, err
	}
	if err := l.Start(ctx); err != nil {
		_ = l.Close(ctx) // it has nothing to wait for
		return nil, err
	}
	return l, nil
}
