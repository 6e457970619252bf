package notify

import (
	"cmp"
	"errors"
	"log/slog"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// The defaults of [Options].
const (
	// DefaultHeartbeatInterval is how long the connection may be silent.
	DefaultHeartbeatInterval = 10 * time.Second
	// DefaultAnswerTimeout is how long the server may take to answer.
	DefaultAnswerTimeout = 5 * time.Second
	// DefaultConnectTimeout bounds an attempt to connect to any of the hosts.
	DefaultConnectTimeout = 30 * time.Second
	// DefaultSubscribeTimeout bounds a Subscribe.
	DefaultSubscribeTimeout = 30 * time.Second
	// DefaultRetryMin and DefaultRetryMax bound the pause before a new attempt.
	DefaultRetryMin = 50 * time.Millisecond
	DefaultRetryMax = 2 * time.Second
)

// Options are a listener's. Zero is the default for every field.
type Options struct {
	// DSN is the server's own address, for a pool that goes through a pooler in
	// transaction mode. Default: the pool's.
	DSN string

	// HeartbeatInterval is how long the connection may be silent before a round
	// trip shows whether the peer lives: a dead one looks idle. Default: 10 s.
	// Off: only TCP's keepalive finds out.
	HeartbeatInterval time.Duration
	// AnswerTimeout is how long the server may take to answer a heartbeat or a
	// LISTEN before the connection counts as dead. Default: 5 s.
	AnswerTimeout time.Duration
	// ConnectTimeout bounds one attempt to connect, all hosts of the DSN
	// together. Default: 30 s.
	ConnectTimeout time.Duration
	// SubscribeTimeout is how long Subscribe waits until the server listens,
	// which in an outage is until the connection is back. Default: 30 s. Off:
	// only the context bounds it.
	SubscribeTimeout time.Duration

	// RetryMin and RetryMax bound the pause before an attempt to connect again.
	// It doubles from one attempt to the next, and a random half of it is left
	// out, so that many listeners do not come at once. A connection that lived
	// longer than the pause before it starts over. Defaults: 50 ms and 2 s.
	RetryMin, RetryMax time.Duration

	// Queue is for subscriptions that do not say otherwise. Default: 256
	// messages, DropOldest.
	Queue Queue
	// Logger hears of lost connections and panics. Default: slog.Default.
	Logger *slog.Logger
}

// Validate reports every fault of the options at once, each as a
// [*providers.ConfigError].
func (o Options) Validate() error {
	var faults []error
	for _, d := range []struct {
		field string
		value time.Duration
		offOK bool
	}{
		{"HeartbeatInterval", o.HeartbeatInterval, true},
		{"AnswerTimeout", o.AnswerTimeout, false},
		{"ConnectTimeout", o.ConnectTimeout, false},
		{"SubscribeTimeout", o.SubscribeTimeout, true},
		{"RetryMin", o.RetryMin, false},
		{"RetryMax", o.RetryMax, false},
	} {
		if d.value < 0 && (d.value != providers.Off || !d.offOK) {
			faults = append(faults, configError("notify.Options."+d.field, "%s is negative; leave it 0 for the default", d.value))
		}
	}
	if lowest, highest := cmp.Or(o.RetryMin, DefaultRetryMin), cmp.Or(o.RetryMax, DefaultRetryMax); lowest > highest {
		faults = append(faults, configError("notify.Options.RetryMin", "%s is more than RetryMax, %s", lowest, highest))
	}
	return errors.Join(append(faults, o.Queue.validate("notify.Options.Queue")...)...)
}

func (o Options) withDefaults() Options {
	o.HeartbeatInterval = providers.OrDefault(o.HeartbeatInterval, DefaultHeartbeatInterval, 0)
	o.AnswerTimeout = cmp.Or(o.AnswerTimeout, DefaultAnswerTimeout)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, DefaultConnectTimeout)
	o.SubscribeTimeout = providers.OrDefault(o.SubscribeTimeout, DefaultSubscribeTimeout, 0)
	o.RetryMin = cmp.Or(o.RetryMin, DefaultRetryMin)
	o.RetryMax = cmp.Or(o.RetryMax, DefaultRetryMax)
	o.Queue = o.Queue.withDefaults(Queue{})
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}
