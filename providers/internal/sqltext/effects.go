package sqltext

import "strings"

// Effects are what statements do besides their work.
type Effects uint8

const (
	// State is anything of the session that outlives the statement: settings, a role,
	// locks, cursors, temporary tables.
	State Effects = 1 << iota
	// Prepared means that prepared statements come or go.
	Prepared
	// Begins means that a transaction begins.
	Begins
	// Ends means that one ends.
	Ends
	// Procedural code can end transactions inside.
	Procedural
	// CopiesIn waits for data from the client.
	CopiesIn
)

// Left is what they leave behind in the session.
func (e Effects) Left() Effects { return e & (State | Prepared) }

// ControlTx reports whether they begin or end a transaction.
func (e Effects) ControlTx() bool { return e&(Begins|Ends) != 0 }

// byFirst are the effects of statements that begin with a word.
var byFirst = map[string]Effects{
	"reset": State, "listen": State, "load": State, "declare": State, "execute": State,
	"do": State | Procedural, "call": State | Procedural,
	"begin": Begins, "commit": Ends, "end": Ends, "abort": Ends,
	"deallocate": Prepared, "discard": State | Prepared,
}

// stateful are names that mean a change of the session wherever they stand.
var stateful = map[string]bool{
	"set_config": true, "setseed": true,
	"pg_advisory_lock": true, "pg_advisory_lock_shared": true,
	"pg_try_advisory_lock": true, "pg_try_advisory_lock_shared": true,
	"pg_temp":     true, // not a function: the schema of temporary tables
	"pg_settings": true, // nor is this: an UPDATE of it is a SET
}

// beforeTemp are the words behind which TEMP makes a table or view temporary.
var beforeTemp = map[string]bool{"create": true, "replace": true, "into": true, "local": true, "global": true}

// Classify tells what a statement, or several, may do. A false alarm costs little, a
// miss leaks state: the stateful names are looked for everywhere, also in literals
// and comments. What a function of the application does inside, nobody can see from
// here.
func Classify(sql string) Effects {
	e := classify(sql, false)
	if isAmbiguous(sql) {
		e |= classify(sql, true)
	}
	return e
}

// classify reads the text with backslashes that escape, or not.
func classify(sql string, escapes bool) Effects {
	var e Effects
	var st started
	for w := range words(sql, escapes) {
		if w.Text == ";" {
			e |= st.effects()
			st = started{}
			continue
		}
		if stateful[w.Text] {
			e |= State
		}
		if !w.Quoted { // a comment can be anywhere
			e |= st.add(sql, w)
		}
	}
	e |= st.effects()
	if strings.Contains(sql, `&"`) { // U&"\0073et_config" is a name as well
		e |= State
	}
	return e
}

// started is a statement as far as it was read.
type started struct {
	first, second, last string
	// local says that it is a SET for the transaction, to that it has the word, by
	// which a ROLLBACK only goes back to a savepoint.
	local, to bool
}

// add reads one more word, and returns what is known from it alone.
func (s *started) add(sql string, w Word) (e Effects) {
	switch {
	case s.first == "":
		s.first = w.Text
		e = byFirst[w.Text]
	case s.second == "":
		s.second = w.Text
		s.local = s.first == "set" && isLocal(sql, w)
	}
	switch {
	case w.Text == "to":
		s.to = true
	case s.first == "copy" && w.Text == "stdin":
		e |= CopiesIn
	case s.first == "explain" && (w.Text == "analyze" || w.Text == "analyse"):
		e |= State // it runs what it explains
	case (w.Text == "temp" || w.Text == "temporary") && beforeTemp[s.last]:
		e |= State
	}
	s.last = w.Text
	return e
}

// effects are those that only the whole statement shows.
func (s *started) effects() Effects {
	switch {
	case s.first == "set" && !s.local:
		return State
	case s.first == "start" && s.second == "transaction":
		return Begins
	case s.first == "prepare" && s.second == "transaction", s.first == "rollback" && !s.to:
		return Ends
	case s.first == "prepare":
		return Prepared
	default:
		return 0
	}
}

// isLocal reports that the word behind SET makes it one that ends with the
// transaction. It can also begin the name of a setting: SET local.x = 1.
func isLocal(sql string, w Word) bool {
	switch w.Text {
	case "local", "transaction", "constraints":
		rest := strings.TrimLeft(sql[w.End:], " \t\r\n\f\v")
		return rest != "" && (isWordByte(rest[0]) || rest[0] == '"')
	default:
		return false
	}
}
