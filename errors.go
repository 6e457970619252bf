package pgkeel

import "fmt"

// notSent is an error that kept a statement from being sent, and says so.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

// Outcome is always OutcomeNotSent.
func (notSent) Outcome() Outcome { return OutcomeNotSent }

// refusef says why nothing was sent.
func refusef(format string, args ...any) error {
	return notSent{fmt.Errorf("pgkeel: "+format+"; nothing was sent", args...)}
}
