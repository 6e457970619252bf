package stdsql

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// controlsTx reports whether a statement begins or ends a transaction. Going back
// to a savepoint does not.
func controlsTx(sql string) bool {
	sql = skipBlank(sql)
	for strings.HasPrefix(sql, ";") { // an empty statement
		sql = skipBlank(sql[1:])
	}
	word, rest := nextWord(sql)
	next, rest := nextWord(rest)
	switch word {
	case "begin", "start", "commit", "end", "abort":
		return true
	case "prepare":
		return next == "transaction"
	case "rollback":
		if next == "work" || next == "transaction" {
			next, _ = nextWord(rest)
		}
		return next != "to"
	default:
		return false
	}
}

// mayEndTx reports whether one of several statements may end the transaction that
// they run in. A false alarm costs a round trip.
func mayEndTx(sql string) bool {
	enders := []string{"commit", "end", "abort", "rollback", "prepare"}
	for _, m := range firstWord.FindAllStringSubmatch(sql, -1) {
		if slices.Contains(enders, strings.ToLower(m[1])) {
			return true
		}
	}
	return nestedComment.MatchString(sql)
}

// copiesIn reports a COPY whose data are to come from the client. A driver would
// wait for the server, and the server for the data.
func copiesIn(sql string) bool {
	if !stdin.MatchString(sql) {
		return false // as next to all
	}
	word, _ := nextWord(sql)
	return word == "copy"
}

var stdin = regexp.MustCompile(`(?i)\bstdin\b`)

// nextWord returns the first word of a text in lower case, and what is behind it.
func nextWord(sql string) (word, rest string) {
	sql = skipBlank(sql)
	end := strings.IndexFunc(sql, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	if end < 0 {
		end = len(sql)
	}
	return strings.ToLower(sql[:end]), sql[end:]
}

// skipBlank skips white space and comments.
func skipBlank(sql string) string {
	for {
		sql = strings.TrimLeft(sql, " \t\r\n\f\v")
		switch {
		case strings.HasPrefix(sql, "--"):
			end := strings.IndexAny(sql, "\r\n")
			if end < 0 {
				return ""
			}
			sql = sql[end:]
		case strings.HasPrefix(sql, "/*"):
			sql = skipComment(sql)
		default:
			return sql
		}
	}
}

// skipComment skips a comment and those inside of it. The server refuses one that
// does not end.
func skipComment(sql string) string {
	depth := 0
	for i := 0; i+1 < len(sql); i++ {
		switch sql[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
		}
		if depth == 0 {
			return sql[i+1:]
		}
	}
	return ""
}
