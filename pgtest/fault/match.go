package fault

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Match says at what message a rule fires. It is a value: the methods return a
// copy that asks for more.
type Match struct {
	direction Direction
	tests     []func(Message) bool
	nth       int
	every     bool
	replies   bool // there is a reply to what matches
	text      string
}

// Frontend matches what the client sends: messages of the given types, the
// letters of the protocol, or all of them.
func Frontend(types ...byte) Match { return ofTypes(ToServer, named("frontend", types), types) }

// Backend matches what the server sends: messages of the given types, the letters
// of the protocol, or all of them.
func Backend(types ...byte) Match { return ofTypes(ToClient, named("backend", types), types) }

// Cancel matches requests to cancel a statement, which come on connections of
// their own.
func Cancel() Match {
	m := newMatch(ToServer, "cancel request", func(m Message) bool { return m.Type == 0 })
	m.replies = false
	return m
}

// SQL matches the message that has the server run a statement whose text contains
// this one: a Query, or the Execute of a portal bound to such a statement. Case
// and the amount of white space make no difference.
func SQL(text string) Match {
	want := plain(text)
	return ofTypes(ToServer, fmt.Sprintf("SQL %q", text), []byte("QE")).
		where(func(m Message) bool { return strings.Contains(plain(m.SQL), want) })
}

// Commit matches the message that has the server run COMMIT or END, alone or
// among other statements of a Query. Statements are told apart by their
// semicolons, without regard to quotes.
func Commit() Match {
	return ofTypes(ToServer, "COMMIT", []byte("QE")).where(func(m Message) bool { return commits(m.SQL) })
}

// Matching asks also that the message contain the text, in any case.
func (m Match) Matching(text string) Match {
	want := bytes.ToLower([]byte(text))
	m.text += fmt.Sprintf(" matching %q", text)
	return m.where(func(msg Message) bool { return bytes.Contains(bytes.ToLower(msg.Body), want) })
}

// Where asks also that the function agree. It is called for one message at a
// time and must not use the proxy.
func (m Match) Where(agrees func(Message) bool) Match {
	m.text += " where a function agrees"
	return m.where(agrees)
}

// Nth has the rule fire at the n-th message that matches, instead of the first;
// n starts at 1.
func (m Match) Nth(n int) Match {
	m.nth = n
	return m
}

// Every has the rule fire again at every message that matches from then on.
func (m Match) Every() Match {
	m.every = true
	return m
}

// String describes the match.
func (m Match) String() string {
	text := m.text
	if m.nth > 1 {
		text += fmt.Sprintf(", number %d", m.nth)
	}
	if m.every {
		text += ", every time"
	}
	return text
}

func newMatch(d Direction, text string, test func(Message) bool) Match {
	return Match{direction: d, nth: 1, replies: d == ToServer, text: text}.where(test)
}

func named(side string, types []byte) string {
	if len(types) == 0 {
		return side
	}
	return fmt.Sprintf("%s %q", side, types)
}

func ofTypes(d Direction, text string, types []byte) Match {
	if len(types) == 0 {
		return newMatch(d, text, func(m Message) bool { return m.Type != 0 })
	}
	wanted := slices.Clone(types)
	return newMatch(d, text, func(m Message) bool { return m.Type != 0 && slices.Contains(wanted, m.Type) })
}

func (m Match) where(test func(Message) bool) Match {
	m.tests = append(slices.Clip(m.tests), test)
	return m
}

func (m Match) matches(msg Message) bool {
	if msg.Direction != m.direction {
		return false
	}
	for _, test := range m.tests {
		if !test(msg) {
			return false
		}
	}
	return true
}

func (m Match) check() error {
	switch {
	case m.direction == 0:
		return errors.New("a Match that matches nothing: start with Frontend, Backend, SQL, Commit or Cancel")
	case m.nth < 1:
		return fmt.Errorf("Nth(%d): messages are counted from 1", m.nth)
	}
	return nil
}

// plain is a statement with everything in small letters and one space between
// words.
func plain(sql string) string { return strings.Join(strings.Fields(strings.ToLower(sql)), " ") }

func commits(sql string) bool {
	for statement := range strings.SplitSeq(sql, ";") {
		words := strings.Fields(strings.ToLower(statement))
		if len(words) > 0 && (words[0] == "commit" || words[0] == "end") {
			return true
		}
	}
	return false
}
