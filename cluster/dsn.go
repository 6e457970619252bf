package cluster

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// addresses are the hosts that a DSN names, or the environment where it names
// none, as host:port and in their order.
func addresses(dsn string) ([]string, error) {
	parsed, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New(providers.Redact(err.Error(), dsn))
	}
	all := []string{joinAddress(parsed.Host, parsed.Port)}
	for _, f := range parsed.Fallbacks {
		// A host stands there once with TLS and once without.
		if address := joinAddress(f.Host, f.Port); !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	return all, nil
}

func joinAddress(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// dsnAt is the DSN with one address (host:port, or the folder of a socket and a
// port) in the place of its hosts. Everything else is kept, but what only makes
// sense for several hosts, or for a pool that keeps connections: whoever uses it
// decides on that.
func dsnAt(dsn, address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 || host == "" {
		return "", errors.New(strconv.Quote(address) + " is no address; write host:port")
	}
	settings := []setting{{"host", host}, {"port", port}}
	parsed, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return "", errors.New(providers.Redact(err.Error(), dsn))
	}
	if parsed.ValidateConnect != nil {
		settings = append(settings, setting{"target_session_attrs", "any"})
	}
	for _, kept := range []string{"pool_min_conns", "pool_min_idle_conns"} {
		if _, ok := parsed.RuntimeParams[kept]; ok {
			settings = append(settings, setting{kept, "0"})
		}
	}
	return withSettings(dsn, settings), nil
}

type setting struct{ name, value string }

// withSettings adds settings to a DSN. Of several with one name the last counts,
// in both forms.
func withSettings(dsn string, settings []setting) string {
	rest, isURL := strings.CutPrefix(dsn, "postgres://")
	if !isURL {
		rest, isURL = strings.CutPrefix(dsn, "postgresql://")
	}
	var b strings.Builder
	if !isURL {
		b.WriteString(withoutOpenEscape(dsn))
		for _, s := range settings {
			b.WriteString(" " + s.name + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s.value) + "'")
		}
		return strings.TrimLeft(b.String(), " ")
	}
	b.WriteString(dsn)
	separator := "?"
	if hasQuery(rest) {
		separator = "&"
	}
	if strings.HasSuffix(dsn, "&") || separator == "&" && strings.HasSuffix(dsn, "?") {
		separator = ""
	}
	for _, s := range settings {
		// A plus is no space in a DSN.
		b.WriteString(separator + s.name + "=" + strings.ReplaceAll(url.QueryEscape(s.value), "+", "%20"))
		separator = "&"
	}
	return b.String()
}

// hasQuery reports whether a URL without its scheme has a query. A question mark
// in front of the at sign is a part of the password, as libpq reads it.
func hasQuery(rest string) bool {
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		rest = rest[i+1:]
	}
	return strings.Contains(rest, "?")
}

// withoutOpenEscape drops a backslash at the end of keywords and values, which
// means nothing there, and would escape what is written behind it.
func withoutOpenEscape(dsn string) string {
	if backslashes := len(dsn) - len(strings.TrimRight(dsn, `\`)); backslashes%2 == 1 {
		return dsn[:len(dsn)-1]
	}
	return dsn
}
