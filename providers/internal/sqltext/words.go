// Package sqltext reads as much of a statement's text as a provider has to: its
// words, what of it is quoted or a comment, and what the statement does to the
// session that runs it.
//
// It follows the server's lexer. Where the setting standard_conforming_strings decides
// what a text says, by default a backslash in '…' is a character like any other; what
// guards something takes both ways into account.
package sqltext

import (
	"iter"
	"strings"
)

// Word is a word of a statement, a number included, or the semicolon that ends one.
type Word struct {
	// Text is the word in lower case, or ";".
	Text string
	// Quoted says that it is part of a literal, a quoted name or a comment.
	Quoted bool
	// End is the place behind it.
	End int
}

// Words yields the words of a text, which may hold several statements.
func Words(sql string) iter.Seq[Word] { return words(sql, false) }

// isAmbiguous reports a text that the server reads in another way where
// standard_conforming_strings is off.
func isAmbiguous(sql string) bool { return strings.Contains(sql, `\'`) }

// words are those of a text in which backslashes escape in every literal, or in E'…'
// only.
func words(sql string, escapes bool) iter.Seq[Word] {
	return func(yield func(Word) bool) {
		s := scanner{sql: sql, escapes: escapes, escapesAt: -1}
		for w, ok := s.next(); ok; w, ok = s.next() {
			if !yield(w) {
				return
			}
		}
	}
}

// scanner is at a place in a text.
type scanner struct {
	sql string
	at  int
	// escapes says that every literal is like E'…'.
	escapes bool
	// quotedTo is where what is quoted ends, escapesAt the place behind an E.
	quotedTo, escapesAt int
}

func (s *scanner) next() (Word, bool) {
	for ; s.at < len(s.sql); s.at++ {
		if s.at >= s.quotedTo {
			s.quotedTo = s.at + quotation(s.sql[s.at:], s.escapes || s.at == s.escapesAt)
		}
		quoted := s.at < s.quotedTo
		switch {
		case isWordByte(s.sql[s.at]):
			return s.word(quoted), true
		case s.sql[s.at] == ';' && !quoted:
			s.at++
			return Word{Text: ";", End: s.at}, true
		}
	}
	return Word{}, false
}

// word reads the word that begins here.
func (s *scanner) word(quoted bool) Word {
	from, to := s.at, len(s.sql)
	if quoted {
		to = s.quotedTo
	}
	isName := !quoted && !isDigit(s.sql[from])
	for s.at < to && (isWordByte(s.sql[s.at]) || isName && s.sql[s.at] == '$') {
		s.at++
	}
	w := Word{Text: strings.ToLower(s.sql[from:s.at]), Quoted: quoted, End: s.at}
	if !quoted && w.Text == "e" {
		s.escapesAt = s.at
	}
	return w
}

// First returns the first two words of a text, behind its comments.
func First(sql string) (first, second string) {
	for w := range Words(sql) {
		switch {
		case w.Quoted:
		case first == "":
			if w.Text != ";" { // an empty statement
				first = w.Text
			}
		default:
			return first, w.Text
		}
	}
	return first, ""
}

// Has reports whether a text has a word that is not quoted.
func Has(sql, word string) bool {
	for w := range Words(sql) {
		if w.Text == word && !w.Quoted {
			return true
		}
	}
	return false
}

// IsSeveral reports whether a text may hold several statements.
func IsSeveral(sql string) bool {
	return isSeveral(sql, false) || isAmbiguous(sql) && isSeveral(sql, true)
}

func isSeveral(sql string, escapes bool) bool {
	begun, over := false, false
	for w := range words(sql, escapes) {
		switch {
		case w.Quoted:
		case w.Text == ";":
			over = begun
		case over:
			return true
		default:
			begun = true
		}
	}
	return false
}

func isWordByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c) || c >= 0x80
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// quotation returns the length of the comment, literal or quoted name that s begins
// with, or 0. escapes says that a literal would be an E'…'.
func quotation(s string, escapes bool) int {
	switch {
	case strings.HasPrefix(s, "--"):
		if end := strings.IndexAny(s, "\r\n"); end >= 0 {
			return end + 1
		}
		return len(s)
	case strings.HasPrefix(s, "/*"):
		return blockComment(s)
	case s[0] == '"':
		return upTo(s, `"`, 1)
	case s[0] == '\'' && escapes:
		return escapedLiteral(s)
	case s[0] == '\'':
		return upTo(s, "'", 1) // a doubled quote just begins the next literal
	case s[0] == '$':
		return dollarLiteral(s)
	default:
		return 0
	}
}

// upTo returns the length of s up to and including the first end behind from.
func upTo(s, end string, from int) int {
	if n := strings.Index(s[from:], end); n >= 0 {
		return from + n + len(end)
	}
	return len(s)
}

// escapedLiteral returns the length of what follows the E of E'…', in which a
// backslash escapes, in the parts behind a line's end as well.
func escapedLiteral(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '\'':
			if more := continued(s[i+1:]); more > 0 {
				i += more
				continue
			}
			return i + 1
		}
	}
	return len(s)
}

// continued returns how far behind a literal's quote the one is with which it goes on:
// right there, or on a later line. It is 0 if the literal has ended.
func continued(s string) int {
	if strings.HasPrefix(s, "'") {
		return 1
	}
	newline := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\n' || c == '\r':
			newline = true
		case c == '\'' && newline:
			return i + 1
		case strings.HasPrefix(s[i:], "--"):
			for i+1 < len(s) && s[i+1] != '\n' && s[i+1] != '\r' {
				i++
			}
		case c != ' ' && c != '\t' && c != '\f' && c != '\v':
			return 0
		}
	}
	return 0
}

// dollarLiteral returns the length of $tag$…$tag$, or 0 for a parameter.
func dollarLiteral(s string) int {
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '$':
			return upTo(s, s[:i+1], i+1)
		case !isWordByte(c) || i == 1 && isDigit(c):
			return 0
		}
	}
	return 0
}

// blockComment returns the length of a comment that may hold others.
func blockComment(s string) int {
	depth := 0
	for i := 0; i+1 < len(s); i++ {
		switch s[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}
