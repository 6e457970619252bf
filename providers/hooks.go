package providers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// HookEvent is an operation that hooks observe.
type HookEvent uint8

// The events. Each has a before and an after, except for EventNotification
// and EventError, which only have an after.
const (
	// EventConnect is the making of a connection.
	EventConnect HookEvent = iota
	// EventAcquire is the wait for a connection of the pool.
	EventAcquire
	// EventRelease is the return of a connection, session reset included.
	EventRelease
	// EventQuery is a statement with rows; it ends when they are closed.
	EventQuery
	// EventExec is a statement without rows.
	EventExec
	// EventBatch is a batch; it ends when its results are closed.
	EventBatch
	// EventCopy is a COPY.
	EventCopy
	// EventBegin, EventCommit and EventRollback are a transaction's ends.
	EventBegin
	EventCommit
	EventRollback
	// EventSavepoint is the start, release or rollback of a savepoint; the
	// info's Name is "savepoint", "release" or "rollback to".
	EventSavepoint
	// EventNotification is a NOTIFY that arrived, on a pooled connection or on
	// one for LISTEN.
	EventNotification
	// EventError follows every operation above that failed.
	EventError
	// EventCustom is an operation of the application's own: see
	// [HookManager.RegisterCustom].
	EventCustom

	hookEvents
)

var hookEventNames = [hookEvents]string{
	"connect", "acquire", "release", "query", "exec", "batch", "copy", "begin",
	"commit", "rollback", "savepoint", "notification", "error", "custom",
}

// String returns the event's name.
func (e HookEvent) String() string {
	if e < hookEvents {
		return hookEventNames[e]
	}
	return "invalid"
}

// HookInfo describes an operation to a hook. Before sees the fields up to
// Start; After sees all of them. It holds no arguments: they are secrets until
// somebody says otherwise.
type HookInfo struct {
	// Event is what happens.
	Event HookEvent
	// Operation is, for EventError, the event that failed.
	Operation HookEvent
	// Name is the custom hook's name, the savepoint operation, the table of a
	// COPY, or the channel of a notification.
	Name string
	// SQL is the statement as the caller wrote it, without its arguments.
	SQL string
	// PID is the server's process, where a connection is known.
	PID uint32
	// TenantID, CorrelationID and UserID are the ids of the context.
	TenantID, CorrelationID, UserID string
	// Start is when the operation began.
	Start time.Time

	// Duration is how long it took.
	Duration time.Duration
	// Rows is the number of rows returned or affected; for a batch, of
	// statements.
	Rows int64
	// Err is how it failed, or nil.
	Err error
}

// Hook observes operations. It cannot change or refuse them: that is what a
// middleware is for. Hooks run on the goroutine of the operation, so a slow
// hook slows it down. It must not use the handle: the operation that it observes
// may hold the last connection.
type Hook struct {
	// Name identifies the hook, for Unregister and in the log.
	Name string
	// Events are those it observes. None means all but EventCustom.
	Events []HookEvent
	// Before runs ahead of the operation and may return a context that
	// carries values; the operation and After get it. Optional.
	Before func(ctx context.Context, info *HookInfo) context.Context
	// After runs behind the operation. Optional.
	After func(ctx context.Context, info *HookInfo)
}

// PanicPolicy says what becomes of a panic in a hook.
type PanicPolicy uint8

// The panic policies.
const (
	// RecoverPanics logs the panic and goes on; the operation is not harmed.
	RecoverPanics PanicPolicy = iota
	// PropagatePanics lets it through, for tests.
	PropagatePanics
)

// The errors of hook registration.
var (
	// ErrInvalidHook means that a hook has no name or observes nothing.
	ErrInvalidHook = errors.New("pgkeel: invalid hook")
	// ErrDuplicateHook means that the name is taken.
	ErrDuplicateHook = errors.New("pgkeel: hook registered twice")
)

type hookTable [hookEvents][]registeredHook

type registeredHook struct {
	Hook
	custom string
}

// HookManager holds hooks and fires them: Before in the order of registration,
// After in the reverse. Registration may change at any time; an operation in
// progress ends with the hooks that it began with. The zero value is ready,
// and a nil manager has no hooks.
type HookManager struct {
	// Panics says what becomes of a panic in a hook. Set it before use.
	Panics PanicPolicy
	// Logger hears of recovered panics. Default: slog.Default.
	Logger *slog.Logger

	mu     sync.Mutex
	hooks  []registeredHook
	table  atomic.Pointer[hookTable]
	panics atomic.Int64
}

// NewHookManager returns a manager with those hooks.
func NewHookManager(hooks ...Hook) (*HookManager, error) {
	m := &HookManager{}
	for _, h := range hooks {
		if err := m.Register(h); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Register adds a hook. A hook without a name, without Before and After, or
// with an event that does not exist or cannot reach what it has, is refused
// with [ErrInvalidHook]; a name in use with [ErrDuplicateHook].
func (m *HookManager) Register(h Hook) error {
	if slices.Contains(h.Events, EventCustom) {
		return fmt.Errorf("%w: %q: use RegisterCustom for EventCustom", ErrInvalidHook, h.Name)
	}
	return m.register(registeredHook{Hook: h})
}

// RegisterCustom adds a hook around the operation that the application runs
// through [HookManager.Run] under that name. Its Events must be empty.
func (m *HookManager) RegisterCustom(operation string, h Hook) error {
	if strings.TrimSpace(operation) == "" {
		return fmt.Errorf("%w: %q: the custom operation has no name", ErrInvalidHook, h.Name)
	}
	if len(h.Events) > 0 {
		return fmt.Errorf("%w: %q: a custom hook observes %q only, leave Events empty", ErrInvalidHook, h.Name, operation)
	}
	h.Events = []HookEvent{EventCustom}
	return m.register(registeredHook{Hook: h, custom: operation})
}

func (m *HookManager) register(h registeredHook) error {
	h.Events = slices.Clone(h.Events) // the caller may change its own
	if err := h.validate(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range m.hooks {
		if other.Name == h.Name {
			return fmt.Errorf("%w: %q", ErrDuplicateHook, h.Name)
		}
	}
	m.hooks = append(slices.Clone(m.hooks), h)
	m.rebuild()
	return nil
}

func (h registeredHook) validate() error {
	switch {
	case strings.TrimSpace(h.Name) == "":
		return fmt.Errorf("%w: it has no name", ErrInvalidHook)
	case h.Before == nil && h.After == nil:
		return fmt.Errorf("%w: %q has neither Before nor After, so it observes nothing", ErrInvalidHook, h.Name)
	}
	onlyAfter := len(h.Events) > 0
	for _, e := range h.Events {
		if e >= hookEvents {
			return fmt.Errorf("%w: %q observes event %d, which does not exist", ErrInvalidHook, h.Name, e)
		}
		onlyAfter = onlyAfter && (e == EventNotification || e == EventError)
	}
	if onlyAfter && h.After == nil {
		return fmt.Errorf("%w: %q has no After, and its events have no before", ErrInvalidHook, h.Name)
	}
	return nil
}

// Unregister removes a hook and reports whether it was there.
func (m *HookManager) Unregister(name string) bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := slices.DeleteFunc(slices.Clone(m.hooks), func(h registeredHook) bool { return h.Name == name })
	found := len(kept) < len(m.hooks)
	m.hooks = kept
	m.rebuild()
	return found
}

func (m *HookManager) rebuild() {
	t := &hookTable{}
	for _, h := range m.hooks {
		events := slices.Clip(h.Events)
		if len(events) == 0 {
			for e := range EventCustom {
				events = append(events, e)
			}
		}
		for i, e := range events {
			if !slices.Contains(events[:i], e) {
				t[e] = append(t[e], h)
			}
		}
	}
	m.table.Store(t)
}

// Has reports whether a hook observes the event. It costs an atomic load.
func (m *HookManager) Has(e HookEvent) bool { return len(m.observers(e)) > 0 }

// Empty reports that no hook is registered.
func (m *HookManager) Empty() bool { return m == nil || m.table.Load() == nil }

// RecoveredPanics counts the panics recovered so far.
func (m *HookManager) RecoveredPanics() int64 {
	if m == nil {
		return 0
	}
	return m.panics.Load()
}

func (m *HookManager) observers(e HookEvent) []registeredHook {
	if m == nil {
		return nil
	}
	t := m.table.Load()
	if t == nil || e >= hookEvents {
		return nil
	}
	return t[e]
}

// Firing is an operation between its before and its after. A nil Firing is one
// that nobody observes: its End does nothing.
type Firing struct {
	m        *HookManager
	ctx      context.Context
	hooks    []registeredHook
	onErrors []registeredHook
	info     HookInfo
}

// Start fires the Before hooks of info.Event and returns the context for the
// operation. Without an observer of the event or of EventError it returns ctx
// and nil and allocates nothing.
func (m *HookManager) Start(ctx context.Context, info HookInfo) (context.Context, *Firing) {
	hooks, onErrors := m.observers(info.Event), m.observers(EventError)
	if info.Event == EventCustom {
		hooks = ofOperation(hooks, info.Name)
	}
	if len(hooks) == 0 && len(onErrors) == 0 {
		return ctx, nil
	}
	return m.start(ctx, info, hooks, onErrors)
}

// ofOperation picks the hooks of one custom operation.
func ofOperation(hooks []registeredHook, operation string) []registeredHook {
	var picked []registeredHook
	for _, h := range hooks {
		if h.custom == operation {
			picked = append(picked, h)
		}
	}
	return picked
}

func (m *HookManager) start(ctx context.Context, info HookInfo, hooks, onErrors []registeredHook) (context.Context, *Firing) {
	f := &Firing{m: m, hooks: hooks, onErrors: onErrors, info: info}
	f.info.begin(ctx)
	for _, h := range hooks {
		if h.Before == nil {
			continue
		}
		m.guard(h.Name, func() {
			if next := h.Before(ctx, &f.info); next != nil {
				ctx = next
			}
		})
	}
	f.ctx = ctx
	return ctx, f
}

// begin notes the time and the ids of the context.
func (i *HookInfo) begin(ctx context.Context) {
	i.TenantID, _ = GetTenantID(ctx)
	i.CorrelationID, _ = GetCorrelationID(ctx)
	i.UserID, _ = GetUserID(ctx)
	i.Start = time.Now()
}

// SetPID tells the hooks the server's process, once it is known.
func (f *Firing) SetPID(pid uint32) {
	if f != nil {
		f.info.PID = pid
	}
}

// End fires the After hooks in reverse, and those of EventError when err is
// not nil.
func (f *Firing) End(rows int64, err error) {
	if f != nil {
		f.end(rows, err)
	}
}

func (f *Firing) end(rows int64, err error) {
	f.info.Duration, f.info.Rows, f.info.Err = time.Since(f.info.Start), rows, err
	f.m.after(f.ctx, f.hooks, &f.info)
	if err != nil {
		failed := f.info
		failed.Event, failed.Operation = EventError, f.info.Event
		f.m.after(f.ctx, f.onErrors, &failed)
	}
}

// Notify fires the After hooks of an event that has no before.
func (m *HookManager) Notify(ctx context.Context, info HookInfo) {
	hooks := m.observers(info.Event)
	if len(hooks) == 0 {
		return
	}
	m.notify(ctx, info, hooks)
}

// notify is apart from Notify so that info stays off the heap without hooks.
func (m *HookManager) notify(ctx context.Context, info HookInfo, hooks []registeredHook) {
	info.begin(ctx)
	m.after(ctx, hooks, &info)
}

func (m *HookManager) after(ctx context.Context, hooks []registeredHook, info *HookInfo) {
	for _, h := range slices.Backward(hooks) {
		if h.After != nil {
			m.guard(h.Name, func() { h.After(ctx, info) })
		}
	}
}

// Run runs fn as a custom operation: inside the hooks registered for it under
// that name. Its error is fn's.
func (m *HookManager) Run(ctx context.Context, operation string, fn func(ctx context.Context) error) (err error) {
	ctx, f := m.Start(ctx, HookInfo{Event: EventCustom, Name: operation})
	if f == nil {
		return fn(ctx)
	}
	// Not recovered: the panic keeps the stack of where it began.
	err = fmt.Errorf("pgkeel: custom operation %q panicked or ended its goroutine", operation)
	defer func() { f.End(0, err) }()
	err = fn(ctx)
	return err
}

func (m *HookManager) guard(name string, call func()) {
	if m.Panics == PropagatePanics {
		call()
		return
	}
	defer func() {
		if r := recover(); r != nil {
			m.panics.Add(1)
			// The panic's value can hold anything, so only its type is told.
			m.logger().Error("pgkeel: a hook panicked", "hook", name, "panic_type", fmt.Sprintf("%T", r))
		}
	}()
	call()
}

func (m *HookManager) logger() *slog.Logger {
	if m.Logger != nil {
		return m.Logger
	}
	return slog.Default()
}
