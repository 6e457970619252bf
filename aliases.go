package pgkeel

import (
	"context"

	"github.com/pgkeel/pgkeel/providers"
)

// The contract's types under the face's name, so that an application imports
// one package. Their documentation is in package providers.
type (
	// Config is what a handle is opened with.
	Config = providers.Config
	// ConfigError is one fault of a configuration.
	ConfigError = providers.ConfigError
	// PoolStrategy is the size and life of the pool.
	PoolStrategy = providers.PoolStrategy
	// PoolStats is a snapshot of the pool.
	PoolStats = providers.PoolStats
	// Profile fits the handle to what stands before the server.
	Profile = providers.Profile
	// SessionReset says when session state is reset.
	SessionReset = providers.SessionReset
	// TxOptions say how a transaction runs.
	TxOptions = providers.TxOptions
	// Querier runs single statements: a DB, Conn, Tx, and pgx's own.
	Querier = providers.Querier

	// PGError is an error that the server reported.
	PGError = providers.PGError
	// TimeoutError says which limit ended a statement.
	TimeoutError = providers.TimeoutError
	// ExhaustedError says who holds the connections.
	ExhaustedError = providers.ExhaustedError
	// UnreachableError says why no connection could be made.
	UnreachableError = providers.UnreachableError
	// TxError says what became of a transaction.
	TxError = providers.TxError
	// CloseError names those who held connections at the end.
	CloseError = providers.CloseError
	// Holder describes who holds a connection.
	Holder = providers.Holder
	// Outcome says what happened to the work.
	Outcome = providers.Outcome

	// Hook observes operations.
	Hook = providers.Hook
	// HookEvent is an operation that hooks observe.
	HookEvent = providers.HookEvent
	// HookInfo describes an operation to a hook.
	HookInfo = providers.HookInfo
	// HookManager holds hooks and fires them.
	HookManager = providers.HookManager
	// PanicPolicy says what becomes of a panic in a hook.
	PanicPolicy = providers.PanicPolicy
)

// The contract's values under the face's name.
const (
	Off = providers.Off

	ProfileDirect     = providers.ProfileDirect
	ProfilePgBouncer  = providers.ProfilePgBouncer
	ProfileServerless = providers.ProfileServerless

	ResetDirty  = providers.ResetDirty
	ResetAlways = providers.ResetAlways
	ResetNever  = providers.ResetNever

	ReadCommitted  = providers.ReadCommitted
	RepeatableRead = providers.RepeatableRead
	Serializable   = providers.Serializable
	ReadOnly       = providers.ReadOnly
	ReadWrite      = providers.ReadWrite

	OutcomeUnknown    = providers.OutcomeUnknown
	OutcomeNotSent    = providers.OutcomeNotSent
	OutcomeRolledBack = providers.OutcomeRolledBack
	OutcomeCommitted  = providers.OutcomeCommitted

	RecoverPanics   = providers.RecoverPanics
	PropagatePanics = providers.PropagatePanics

	EventConnect      = providers.EventConnect
	EventAcquire      = providers.EventAcquire
	EventRelease      = providers.EventRelease
	EventQuery        = providers.EventQuery
	EventExec         = providers.EventExec
	EventBatch        = providers.EventBatch
	EventCopy         = providers.EventCopy
	EventBegin        = providers.EventBegin
	EventCommit       = providers.EventCommit
	EventRollback     = providers.EventRollback
	EventSavepoint    = providers.EventSavepoint
	EventNotification = providers.EventNotification
	EventError        = providers.EventError
)

// The contract's errors under the face's name.
var (
	ErrPoolClosed      = providers.ErrPoolClosed
	ErrPoolExhausted   = providers.ErrPoolExhausted
	ErrUnreachable     = providers.ErrUnreachable
	ErrNestedAcquire   = providers.ErrNestedAcquire
	ErrConcurrentUse   = providers.ErrConcurrentUse
	ErrReleased        = providers.ErrReleased
	ErrOtherScope      = providers.ErrOtherScope
	ErrEndsScope       = providers.ErrEndsScope
	ErrTooManyRows     = providers.ErrTooManyRows
	ErrTxPoisoned      = providers.ErrTxPoisoned
	ErrUnreplicated    = providers.ErrUnreplicated
	ErrUnknownProvider = providers.ErrUnknownProvider
	ErrInvalidHook     = providers.ErrInvalidHook
	ErrDuplicateHook   = providers.ErrDuplicateHook
)

// OutcomeOf reads what happened to the work from the error it ended with.
func OutcomeOf(err error) Outcome { return providers.OutcomeOf(err) }

// WithTenantID returns a context that carries the tenant's id.
func WithTenantID(ctx context.Context, tenantID string) context.Context {
	return providers.WithTenantID(ctx, tenantID)
}

// GetTenantID returns the tenant's id, and whether there is one.
func GetTenantID(ctx context.Context) (string, bool) { return providers.GetTenantID(ctx) }

// WithCorrelationID returns a context that carries a correlation id.
func WithCorrelationID(ctx context.Context, correlationID string) context.Context {
	return providers.WithCorrelationID(ctx, correlationID)
}

// GetCorrelationID returns the correlation id, and whether there is one.
func GetCorrelationID(ctx context.Context) (string, bool) { return providers.GetCorrelationID(ctx) }

// WithUserID returns a context that carries the user's id.
func WithUserID(ctx context.Context, userID string) context.Context {
	return providers.WithUserID(ctx, userID)
}

// GetUserID returns the user's id, and whether there is one.
func GetUserID(ctx context.Context) (string, bool) { return providers.GetUserID(ctx) }
