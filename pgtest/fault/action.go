package fault

import (
	"fmt"
	"time"
)

// Action is what happens to a message at which a rule fires, and to its
// connection.
type Action struct {
	kind  kind
	delay time.Duration
}

type kind int

const (
	_ kind = iota
	drop
	cut
	cutAfter
	reset
	blackHole
	delay
	swallowReply
	cutReply
)

// The actions.
var (
	// Drop loses the message, and nothing else.
	Drop = Action{kind: drop}
	// Cut closes the connection instead of passing the message on.
	Cut = Action{kind: cut}
	// CutAfter passes the message on, then closes the connection, before an answer to
	// the message arrives.
	CutAfter = Action{kind: cutAfter}
	// Reset is Cut with a reset (RST) instead of an orderly end.
	Reset = Action{kind: reset}
	// BlackHole lets neither the message nor anything after it pass, in both
	// directions of this connection, and closes nothing, not even when one side
	// has closed. Heal lets it all pass.
	BlackHole = Action{kind: blackHole}
	// SwallowReply passes a client's message on, and nothing that the server
	// answers from this message on: the client waits. What it sends still passes.
	// The rule fires when the server is done: at its ReadyForQuery, or at the end
	// of the connection.
	SwallowReply = Action{kind: swallowReply}
	// CutReply is SwallowReply, and the connection is closed when the server is
	// done.
	CutReply = Action{kind: cutReply}
)

// Delay holds the message, and what follows it in the same direction, for so long.
func Delay(d time.Duration) Action { return Action{kind: delay, delay: d} }

// String returns the name of the action.
func (a Action) String() string {
	names := [...]string{
		"no action", "Drop", "Cut", "CutAfter", "Reset", "BlackHole",
		fmt.Sprintf("Delay(%v)", a.delay), "SwallowReply", "CutReply",
	}
	return names[a.kind]
}

// losesReply reports whether the action is about the answer to a message.
func (a Action) losesReply() bool { return a.kind == swallowReply || a.kind == cutReply }
