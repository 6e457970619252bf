// Package savepoints keeps the savepoints of a transaction for the providers, since
// the server treats those of each alike: what a name stands for, which end with
// another, and whether something is still there that one was to undo.
package savepoints

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// maxName is the longest identifier that PostgreSQL does not cut.
const maxName = 63

// Check refuses a name that is no identifier.
func Check(name string) error {
	if len(name) > maxName || strings.ContainsRune(name, 0) || !utf8.ValidString(name) {
		return fmt.Errorf("pgkeel: savepoint name of %d bytes: at most %d of UTF-8, without NUL", len(name), maxName)
	}
	return nil
}

// Stack are the savepoints of a transaction. Only what is said to be safe may be
// called while somebody uses the transaction.
type Stack struct {
	open   []*Savepoint // the innermost last
	chosen int
	// poisons counts the savepoints that could not be undone.
	poisons atomic.Int32
}

// New returns a savepoint that has not begun. An empty name is chosen.
func (s *Stack) New(name string) *Savepoint {
	if name == "" {
		s.chosen++
		name = "pgkeel_" + strconv.Itoa(s.chosen)
	}
	return &Savepoint{stack: s, name: pgx.Identifier{name}.Sanitize()}
}

// IsPoisoned reports that something is still there that a savepoint was to undo, and
// that must not be committed with the rest.
func (s *Stack) IsPoisoned() bool { return s.poisons.Load() > 0 }

// Savepoint is one of a transaction.
type Savepoint struct {
	stack *Stack
	name  string // quoted
	over  atomic.Bool
	kept  atomic.Bool
}

// BeginSQL begins the savepoint. Begun tells that it did.
func (s *Savepoint) BeginSQL() string { return "savepoint " + s.name }

// Begun has the savepoint be the innermost.
func (s *Savepoint) Begun() { s.stack.open = append(s.stack.open, s) }

// IsOver reports that the savepoint has ended. None at all has not.
func (s *Savepoint) IsOver() bool { return s != nil && s.over.Load() }

// ReleaseSQL ends the savepoint and keeps its work. Released tells that it did.
func (s *Savepoint) ReleaseSQL() string {
	return strings.Repeat("release savepoint "+s.name+";", s.namesakes())
}

// Released ends the savepoint.
func (s *Savepoint) Released() { s.pop() }

// UndoSQL goes back to the savepoint and ends it: ROLLBACK TO alone would keep it.
func (s *Savepoint) UndoSQL() string {
	return strings.Repeat("rollback to savepoint "+s.name+"; release savepoint "+s.name+";", s.namesakes())
}

// Undone ends the savepoint, of which nothing is there any more. What those inside of
// it were to undo is gone with it.
func (s *Savepoint) Undone() {
	for _, inner := range s.pop() {
		if inner.kept.Swap(false) {
			s.stack.poisons.Add(-1)
		}
	}
}

// Failed ends the savepoint, whose work could not be undone.
func (s *Savepoint) Failed() {
	s.pop()
	s.stack.poisons.Add(1)
}

// Keep tells that the work was to be undone, and that the server could not be asked
// for it. It reports false if the savepoint has ended: then there is nothing to undo.
// It is safe for concurrent use.
func (s *Savepoint) Keep() bool {
	if s.over.Load() {
		return false
	}
	if !s.kept.Swap(true) {
		s.stack.poisons.Add(1)
	}
	return true
}

// namesakes counts the savepoints of this name from here inwards. The server takes a
// name for the innermost of them.
func (s *Savepoint) namesakes() int {
	n := 0
	for _, inner := range s.inwards() {
		if inner.name == s.name {
			n++
		}
	}
	return n
}

// inwards are the savepoint and those inside of it.
func (s *Savepoint) inwards() []*Savepoint { return s.stack.open[slices.Index(s.stack.open, s):] }

// pop ends the savepoint and those inside of it, as the server does.
func (s *Savepoint) pop() []*Savepoint {
	ended := s.inwards()
	for _, inner := range ended {
		inner.over.Store(true)
	}
	s.stack.open = s.stack.open[:len(s.stack.open)-len(ended)]
	return ended
}
