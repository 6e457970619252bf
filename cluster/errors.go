package cluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// The states that an operation can find. [*NoPrimaryError] and [*NoReplicaError]
// add what is known.
var (
	// ErrNoPrimary means that no server is known to be the primary.
	ErrNoPrimary = errors.New("pgkeel: no primary is known")
	// ErrNoReplica means that no replica was fit for a read, with [FallbackError].
	ErrNoReplica = errors.New("pgkeel: no replica is fit to read from")
)

// NoPrimaryError is [ErrNoPrimary] with what is known.
type NoPrimaryError struct {
	// Waited is for how long a primary was waited for.
	Waited time.Duration
	// Servers are what is known of each server, in words.
	Servers []string
	// Err is what ended the wait.
	Err error
}

func (e *NoPrimaryError) Error() string {
	return fmt.Sprintf("%v after %s%s; nothing was sent: %v", ErrNoPrimary, e.Waited.Round(time.Millisecond), known(e.Servers), e.Err)
}

// Unwrap makes the error match ErrNoPrimary and what ended the wait.
func (e *NoPrimaryError) Unwrap() []error { return []error{ErrNoPrimary, e.Err} }

// Outcome is always OutcomeNotSent.
func (e *NoPrimaryError) Outcome() providers.Outcome { return providers.OutcomeNotSent }

// NoReplicaError is [ErrNoReplica] with what is known.
type NoReplicaError struct {
	// Servers are what is known of each server, in words.
	Servers []string
	// Err is how the last replica that was tried failed. It is nil if none was.
	Err error
}

func (e *NoReplicaError) Error() string {
	text := ErrNoReplica.Error() + known(e.Servers) + "; nothing was read"
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap makes the error match ErrNoReplica and why the last one failed.
func (e *NoReplicaError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrNoReplica}
	}
	return []error{ErrNoReplica, e.Err}
}

// Outcome is always OutcomeNotSent: what is read elsewhere has no effect.
func (e *NoReplicaError) Outcome() providers.Outcome { return providers.OutcomeNotSent }

func known(servers []string) string {
	if len(servers) == 0 {
		return ""
	}
	return " (" + strings.Join(servers, "; ") + ")"
}

// codeCannotConnectNow is a server that starts, or ends.
const codeCannotConnectNow = "57P03"

// isAway reports an error that came about for want of the server: it cannot be
// reached, takes no connections, or was lost.
func isAway(err error) bool {
	if pg := providers.NewPGError(err); pg != nil {
		return pg.IsConnectionError()
	}
	return errors.Is(err, providers.ErrUnreachable) || errors.Is(err, ErrNoPrimary) || isLoss(err)
}

// IsServerLost reports whether an operation failed for want of its server: it could
// not be reached, takes no connections, or was lost. What only reads can be run again,
// on another one.
func IsServerLost(err error) bool {
	return err != nil && !errors.Is(err, ErrNoReplica) && isAway(err)
}

// isLoss reports that a connection was lost.
func isLoss(err error) bool {
	var socket *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.As(err, &socket)
}

// isElsewhere reports that what failed on a replica can succeed on another server.
func isElsewhere(err error) bool {
	for _, state := range []error{providers.ErrBehind, providers.ErrUnreachable, providers.ErrPoolExhausted, providers.ErrPoolClosed} {
		if errors.Is(err, state) {
			return true
		}
	}
	// The replay of what the primary wrote ends queries that are in its way, with the
	// codes of conflicts between transactions.
	pg := providers.NewPGError(err)
	return isAway(err) || pg != nil && pg.IsRetryable()
}

// isUnsent reports that a write failed for want of the primary, and that certainly
// nothing of it was done.
func isUnsent(err error) bool {
	if isRefusedWrite(err) {
		return true
	}
	if pg := providers.NewPGError(err); pg != nil && pg.Code == codeCannotConnectNow {
		return true
	}
	return providers.OutcomeOf(err) == providers.OutcomeNotSent && errors.Is(err, providers.ErrUnreachable) && isAway(err)
}

// isRefusedWrite reports that a server refused to write.
func isRefusedWrite(err error) bool {
	pg := providers.NewPGError(err)
	return pg != nil && pg.IsReadOnly()
}

// notSentError is an error of something that never began.
type notSentError struct{ error }

func (e *notSentError) Unwrap() error              { return e.error }
func (e *notSentError) Outcome() providers.Outcome { return providers.OutcomeNotSent }

func refusef(format string, args ...any) error {
	return &notSentError{fmt.Errorf("pgkeel: cluster: "+format+"; nothing was sent", args...)}
}
