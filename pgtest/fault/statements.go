package fault

import "bytes"

// statements knows the text behind the names that a client gave to its prepared
// statements and portals.
type statements struct {
	prepared, portals map[string]string
}

func newStatements() *statements {
	return &statements{prepared: map[string]string{}, portals: map[string]string{}}
}

// follow returns the text that a message of the client is about.
func (s *statements) follow(kind byte, body []byte) string {
	switch kind {
	case 'Q':
		text, _ := cString(body)
		return text
	case 'P':
		name, rest := cString(body)
		text, _ := cString(rest)
		s.prepared[name] = text
		return text
	case 'B':
		portal, rest := cString(body)
		name, _ := cString(rest)
		s.portals[portal] = s.prepared[name]
		return s.prepared[name]
	case 'E':
		portal, _ := cString(body)
		return s.portals[portal]
	case 'C':
		s.forget(body)
	}
	return ""
}

// forget is for Close, which names a statement or a portal.
func (s *statements) forget(body []byte) {
	if len(body) == 0 {
		return
	}
	name, _ := cString(body[1:])
	if body[0] == 'S' {
		delete(s.prepared, name)
	} else {
		delete(s.portals, name)
	}
}

// cString splits at the zero byte that ends a text.
func cString(b []byte) (text string, rest []byte) {
	before, rest, _ := bytes.Cut(b, []byte{0})
	return string(before), rest
}
