package providers

import (
	"net/url"
	"regexp"
	"strings"
)

const redacted = "xxxxx"

// secretKeyword finds secrets in DSNs of keywords and values, and in the query
// of a URL.
var secretKeyword = regexp.MustCompile(`(?i)\b(password|passfile|sslpassword|sslkey|oauth_client_secret|options)(\s*=\s*)('(?:[^'\\]|\\.)*'?|[^\s&]+)`)

// urlPassword finds the password of a URL that net/url may be unable to parse.
// It is greedy up to the last @ of the authority, as a password may contain one.
var urlPassword = regexp.MustCompile(`(?i)(postgres(?:ql)?://[^:@/\s]*):[^\s/]*@`)

// Redact takes the secrets of dsn, and what looks like one, out of text.
func Redact(text, dsn string) string {
	if dsn != "" {
		// The text may quote the DSN as it is: replace it whole, first, by a
		// form in which every secret is gone.
		text = strings.ReplaceAll(text, dsn, redactDSN(dsn))
	}
	if u, err := url.Parse(dsn); err == nil && u.User != nil {
		if password, ok := u.User.Password(); ok && password != "" {
			text = strings.ReplaceAll(text, password, redacted)
			text = strings.ReplaceAll(text, url.QueryEscape(password), redacted)
			text = strings.ReplaceAll(text, url.PathEscape(password), redacted)
		}
	}
	return redactDSN(text)
}

func redactDSN(s string) string {
	s = urlPassword.ReplaceAllString(s, "$1:"+redacted+"@")
	return secretKeyword.ReplaceAllString(s, "$1$2"+redacted)
}
