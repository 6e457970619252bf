package batch

import (
	"errors"
	"fmt"

	"github.com/pgkeel/pgkeel/providers"
)

// Mode says what an error means to the other statements.
type Mode uint8

// The modes.
const (
	// Atomic is all or nothing.
	Atomic Mode = iota
	// Isolated is each statement by itself.
	Isolated
	// Grouped is a transaction for every GroupSize statements.
	Grouped
)

// String returns the mode's name.
func (m Mode) String() string {
	switch m {
	case Atomic:
		return "atomic"
	case Isolated:
		return "isolated"
	case Grouped:
		return "grouped"
	default:
		return "invalid"
	}
}

// The defaults of [Options].
const (
	// DefaultGroupSize is how many statements share a transaction in Grouped mode.
	DefaultGroupSize = 100
	// DefaultMaxStatements is how many statements are under way at a time.
	DefaultMaxStatements = 1000
	// DefaultMaxBytes is how many bytes of statements are under way at a time. It
	// fits into the sockets' buffers of any system, so that writing never has to
	// wait for the server.
	DefaultMaxBytes = 64 << 10
)

// Options say how a batch runs. The zero value is Atomic with the defaults.
type Options struct {
	// Mode says what an error means. Default: Atomic.
	Mode Mode
	// GroupSize is how many statements share a transaction in Grouped mode.
	// Default: 100. At least 2.
	GroupSize int
	// MaxStatements is how many statements are read ahead and under way at a
	// time. Default: 1,000.
	MaxStatements int
	// MaxBytes is how many bytes of statements are read ahead and under way at a
	// time. A larger one travels alone. Raise it where a round trip takes long:
	// at most MaxBytes are sent per round trip. Default: 64 KiB.
	MaxBytes int
	// StopOnError sends nothing more once something failed, in Isolated and
	// Grouped mode. What was sent already ends as it ends. Default: go on.
	StopOnError bool
	// Tx are the isolation level, access mode and deferrability of the
	// transactions of Atomic and Grouped mode. Inside a transaction they are an
	// error. Its other fields have no effect on a batch and are refused: bound
	// the time with the context, and retry in RunTx. Default: the server's.
	Tx providers.TxOptions
}

func (o Options) validate() error {
	if o == (Options{Mode: o.Mode}) && o.Mode <= Grouped { // as most are
		return nil
	}
	var faults []error
	addf := func(bad bool, field, format string, args ...any) {
		if bad {
			faults = append(faults, &providers.ConfigError{Field: "batch.Options." + field, Problem: fmt.Sprintf(format, args...)})
		}
	}
	addf(o.Mode > Grouped, "Mode", "%d is none of Atomic, Isolated, Grouped", o.Mode)
	addf(o.GroupSize != 0 && o.Mode != Grouped, "GroupSize", "has an effect in Grouped mode only")
	addf(o.GroupSize < 0, "GroupSize", "%d is negative; leave it 0 for %d", o.GroupSize, DefaultGroupSize)
	addf(o.GroupSize == 1 && o.Mode == Grouped, "GroupSize", "1 is Isolated mode; use that")
	addf(o.MaxStatements < 0, "MaxStatements", "%d is negative; leave it 0 for %d", o.MaxStatements, DefaultMaxStatements)
	addf(o.MaxBytes < 0, "MaxBytes", "%d is negative; leave it 0 for %d", o.MaxBytes, DefaultMaxBytes)
	addf(o.StopOnError && o.Mode == Atomic, "StopOnError", "has no effect in Atomic mode, which always does")
	addf(o.Tx != (providers.TxOptions{}) && o.Mode == Isolated, "Tx", "has no effect in Isolated mode, which begins no transaction")
	addf(o.Tx.Timeout != 0, "Tx.Timeout", "has no effect on a batch; bound the time with the context")
	addf(o.Tx.MaxAttempts != 0 || o.Tx.RetryBudget != 0, "Tx", "a batch is not run again by itself; run it in RunTx for that")
	if err := o.Tx.Validate(); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// call is what the provider gets.
func (o Options) call() *providers.BatchCall {
	call := &providers.BatchCall{
		Tx: o.Tx, MaxStatements: o.MaxStatements, MaxBytes: o.MaxBytes, StopOnError: o.StopOnError,
	}
	switch o.Mode {
	case Isolated:
		call.Group = 1
	case Grouped:
		call.Group = o.GroupSize
		if call.Group == 0 {
			call.Group = DefaultGroupSize
		}
	}
	if call.MaxStatements == 0 {
		call.MaxStatements = DefaultMaxStatements
	}
	if call.MaxBytes == 0 {
		call.MaxBytes = DefaultMaxBytes
	}
	return call
}
