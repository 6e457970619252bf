package stdsql

import (
	"regexp"
	"strings"
)

// dirt is what statements left behind in a session.
type dirt uint32

const (
	// dirtState is settings, a role, locks, temporary tables, prepared
	// statements and the like.
	dirtState dirt = 1 << iota
	// dirtTransaction is a transaction that the application began in SQL.
	dirtTransaction
)

// between is white space and comments.
const between = `(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)`

var (
	// firstWord finds the first words of statements. Semicolons in literals
	// only make for false alarms.
	firstWord = regexp.MustCompile(`(?is)(?:^|;)` + between + `*([a-z]+)(?:` + between + `+([a-z]+))?`)
	// dirtyPart finds what changes the session anywhere in a statement.
	dirtyPart = regexp.MustCompile(`(?is)\b(?:set_config|setseed|pg_(?:try_)?advisory_lock(?:_shared)?|pg_temp)\b` +
		`|\b(?:create|replace|global|local|into)` + between + `+temp(?:orary)?\b`)
	// nestedComment is one that the above cannot skip.
	nestedComment = regexp.MustCompile(`(?s)/\*(?:[^*]|\*[^/])*/\*`)
)

// dirtyWords are the first words of statements that change the session.
var dirtyWords = map[string]dirt{
	"set": dirtState, "reset": dirtState, "listen": dirtState, "load": dirtState, "declare": dirtState, "do": dirtState,
	"call": dirtState, "execute": dirtState, "prepare": dirtState, "deallocate": dirtState, "discard": dirtState,
	"begin": dirtTransaction, "start": dirtTransaction,
}

// classify tells what a statement, or several, may leave behind in the session.
// A false alarm costs a connection, a miss leaks state. What a function of the
// application does inside, nobody can see from here.
func classify(sql string) dirt {
	var d dirt
	for _, m := range firstWord.FindAllStringSubmatch(sql, -1) {
		word, next := strings.ToLower(m[1]), strings.ToLower(m[2])
		if word == "set" && (next == "local" || next == "transaction" || next == "constraints") {
			continue // these end with the transaction
		}
		d |= dirtyWords[word]
	}
	if dirtyPart.MatchString(sql) || nestedComment.MatchString(sql) {
		d |= dirtState
	}
	return d
}

// commandOf is// commandOf is the first word of a statement, as a command tag has it.
func commandOf(sql string) string {
	m := firstWord.FindStringSubmatch(sql)
	if m == nil {
		return ""
	}
	return strings.ToUpper(m[1])
}

// isSeveral reports whether a text may hold several statements.
func isSeveral(sql string) bool { return strings.Contains(strings.TrimRight(sql, "; \t\r\n"), ";") }
