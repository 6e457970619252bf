package providers

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// redacted stands where a secret was.
const redacted = "xxxxx"

// anywhere is the length from which a secret is taken out wherever it occurs.
// A shorter one is only where it stands alone, as it is part of many words.
const anywhere = 4

const secretKeys = `(?:\w*password|(?:pg)?(?:passfile|sslkey|options)|oauth_client_secret|scram_(?:client|server)_key)`

var (
	// querySecret finds secrets in the query of a URL.
	querySecret = regexp.MustCompile(`(?i)([?&]` + secretKeys + `=)[^\s&]*`)
	// keywordSecret finds them among keywords and values. A value may be
	// quoted, and a backslash takes the next character literally.
	keywordSecret = regexp.MustCompile(`(?is)((?:^|[^?&\w])` + secretKeys + `\s*=\s*)(?:'(?:[^'\\]|\\.)*'?|(?:\\.|[^\s\\])+)`)
	// urlPassword finds the password of a URL, also of one that no parser
	// takes, where the password contains @, / or ? as they are.
	urlPassword = regexp.MustCompile(`(?i)([a-z][a-z0-9+.-]*://[^:@/\s]*):(?:[^\s?]*@|\S*@)`)

	// looseSecret and looseKeyword cut up keywords and values that cannot be
	// parsed: a secret then goes as far as the next keyword.
	looseSecret  = regexp.MustCompile(`(?i)\b(?:\w*password|oauth_client_secret|scram_\w+_key)\s*=\s*`)
	looseKeyword = regexp.MustCompile(`\s(?:host|hostaddr|port|dbname|database|user|passfile|service|options|sslmode|connect_timeout|application_name|\w*password)\s*=`)
	queryPair    = regexp.MustCompile(`^[\w.%-]+=`)
)

// Redact takes the secrets of dsn, and what looks like one, out of text: as
// they stand in dsn, decoded, and in the encodings that an error may print. Of
// a dsn that cannot be parsed the parts of the password go as well, from three
// characters on. It rather takes too much than too little.
func Redact(text, dsn string) string {
	s := secrets{}
	s.read(dsn)
	text = s.mask(text)
	text = urlPassword.ReplaceAllString(text, "$1:"+redacted+"@")
	text = querySecret.ReplaceAllString(text, "${1}"+redacted)
	return keywordSecret.ReplaceAllString(text, "${1}"+redacted)
}

// secrets is a set of strings that must not be seen.
type secrets map[string]struct{}

func (s secrets) read(dsn string) {
	if _, rest, ok := strings.Cut(dsn, "://"); ok && !looseSecret.MatchString(dsn[:len(dsn)-len(rest)]) {
		s.readURL(rest)
		return
	}
	if s.readKeywords(dsn) {
		return
	}
	s.readLoosely(dsn)
}

func (s secrets) readURL(rest string) {
	if !wellFormedQuery(rest) {
		s.readLoosely(rest)
	}
	if end := userinfoEnd(rest); end >= 0 {
		if _, password, ok := strings.Cut(rest[:end], ":"); ok {
			s.add(password)
			// Where it is not encoded, a parser takes a part of it for the host,
			// the port or the query, and says so in its error.
			if _, err := url.PathUnescape(password); err != nil || strings.ContainsAny(password, "@/?# ") {
				s.addParts(password)
			}
		}
		rest = rest[end+1:]
	}
	_, query, _ := strings.Cut(rest, "?")
	secret := false
	var value string
	for pair := range strings.SplitSeq(query, "&") {
		key, v, ok := strings.Cut(pair, "=")
		if !ok && secret { // an & that was not encoded
			value += "&" + pair
			s.add(value)
			s.addParts(value)
			continue
		}
		if decoded, err := url.QueryUnescape(key); err == nil {
			key = decoded
		}
		if secret, value = isSecret(key), v; secret {
			s.add(value)
		}
	}
}

// userinfoEnd finds the @ behind a URL's user and password, or -1. Parsers take
// the first one before a slash; who did not encode the password means the last.
func userinfoEnd(rest string) int {
	body := rest
	if wellFormedQuery(rest) {
		body, _, _ = strings.Cut(rest, "?")
	}
	end := strings.LastIndexByte(body, '@')
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		end = max(end, i)
	}
	return end
}

// wellFormedQuery reports whether what follows the first ? can be a query, if
// anything does, rather than a part of a password.
func wellFormedQuery(rest string) bool {
	_, query, ok := strings.Cut(rest, "?")
	for pair := range strings.SplitSeq(query, "&") {
		if ok && pair != "" && !queryPair.MatchString(pair) {
			return false
		}
	}
	return true
}

// readKeywords reads keywords and values as libpq does and reports whether all
// of dsn could be read.
func (s secrets) readKeywords(dsn string) bool {
	const space = " \t\n\r\v\f"
	for dsn = strings.TrimLeft(dsn, space); dsn != ""; dsn = strings.TrimLeft(dsn, space) {
		key, rest, ok := strings.Cut(dsn, "=")
		if key = strings.Trim(key, space); !ok || key == "" || strings.ContainsAny(key, space) {
			return false
		}
		rest = strings.TrimLeft(rest, space)
		stop, quoted := space, strings.HasPrefix(rest, "'")
		if quoted {
			stop, rest = "'", rest[1:]
		}
		end := 0
		for end < len(rest) && !strings.ContainsRune(stop, rune(rest[end])) {
			if rest[end] == '\\' {
				end++
			}
			end++
		}
		end = min(end, len(rest))
		if quoted && end == len(rest) {
			return false
		}
		if isSecret(key) {
			s.add(rest[:end])
			s.addParts(rest[:end]) // an error may have cut it at a space or a quote
		}
		if dsn = rest[end:]; quoted {
			dsn = dsn[1:]
		}
	}
	return true
}

// readLoosely collects what may be a secret in a dsn that cannot be parsed.
func (s secrets) readLoosely(dsn string) {
	found := looseSecret.FindAllStringIndex(dsn, -1)
	for _, at := range found {
		value := dsn[at[1]:]
		if next := looseKeyword.FindStringIndex(value); next != nil {
			value = value[:next[0]]
		}
		s.add(value)
		s.addParts(value)
	}
	// A URL without its scheme.
	if from, to := strings.IndexByte(dsn, ':'), strings.LastIndexByte(dsn, '@'); len(found) == 0 && from >= 0 && from < to {
		s.add(dsn[from+1 : to])
		s.addParts(dsn[from+1 : to])
	}
}

func isSecret(key string) bool {
	key = strings.ToLower(key)
	return strings.HasSuffix(key, "password") || key == "oauth_client_secret" ||
		strings.HasPrefix(key, "scram_") && strings.HasSuffix(key, "_key")
}

// add adds a secret as it stands in the DSN and in every form it may take.
func (s secrets) add(raw string) {
	forms := []string{raw, unescape(raw)}
	for _, decode := range []func(string) (string, error){url.PathUnescape, url.QueryUnescape} {
		if decoded, err := decode(raw); err == nil {
			forms = append(forms, decoded)
		}
	}
	for _, form := range forms {
		for _, shown := range []string{form, url.PathEscape(form), url.QueryEscape(form)} {
			s[shown] = struct{}{}
			quoted := strconv.Quote(shown)
			s[quoted[1:len(quoted)-1]] = struct{}{}
		}
	}
	delete(s, "")
}

// addParts adds the parts of a secret that a parser may have cut up.
func (s secrets) addParts(raw string) {
	for _, part := range strings.FieldsFunc(raw, func(r rune) bool { return strings.ContainsRune("@/?#:,&=%'\"\\ \t\n\r\v\f", r) }) {
		if len(part) >= 3 {
			s.add(part)
		}
	}
}

// unescape drops the backslashes of a keyword's value.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (s secrets) mask(text string) string {
	var long []string
	for secret := range s {
		if len(secret) >= anywhere {
			long = append(long, secret)
		}
	}
	// The longest first, so that none is cut by another one inside it.
	slices.SortFunc(long, func(a, b string) int { return len(b) - len(a) })
	pairs := make([]string, 0, 2*len(long))
	for _, secret := range long {
		pairs = append(pairs, secret, redacted)
	}
	return s.maskShort(strings.NewReplacer(pairs...).Replace(text))
}

func (s secrets) maskShort(text string) string {
	if len(s) == 0 {
		return text
	}
	var b strings.Builder
next:
	for i := 0; i < len(text); {
		for n := min(anywhere-1, len(text)-i); n > 0; n-- {
			if _, ok := s[text[i:i+n]]; ok && standsAlone(text, i, i+n) {
				b.WriteString(redacted)
				i += n
				continue next
			}
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String()
}

func standsAlone(text string, from, to int) bool {
	return (from == 0 || !isWord(text[from-1])) && (to == len(text) || !isWord(text[to]))
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
