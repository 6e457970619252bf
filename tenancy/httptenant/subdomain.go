package httptenant

import (
	"net"
	"net/http"
	"strconv"
	"strings"
)

// maxLabel is the longest part of a host name.
const maxLabel = 63

// Subdomain is the tenant in front of a domain: acme of acme.example.com. It is in
// lower case, and an internationalized name is left as it is encoded (xn--…). The
// domain itself, and other hosts, name no tenant. What has dots of its own in front
// of the domain, or could not be a part of a host name, is refused.
//
// The host is the request's own. Behind a proxy that replaces it, have the proxy
// pass it on.
func Subdomain(domain string) Source {
	domain = strings.ToLower(domain)
	for label := range strings.SplitSeq(domain, ".") {
		if !isLabel(label) {
			panic("pgkeel: httptenant: Subdomain needs a domain such as example.com, without port and leading dot")
		}
	}
	return func(r *http.Request) (string, error) {
		host, err := hostOf(r)
		if err != nil {
			return "", err
		}
		label, isBelow := strings.CutSuffix(host, "."+domain)
		switch {
		case !isBelow:
			return "", nil
		case !isLabel(label):
			return "", ErrMalformed
		default:
			return label, nil
		}
	}
}

// hostOf is the request's host in lower case, without a port.
func hostOf(r *http.Request) (string, error) {
	host := r.Host
	if strings.Contains(host, ":") {
		var port string
		var err error
		if host, port, err = net.SplitHostPort(host); err != nil {
			return "", ErrMalformed
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", ErrMalformed
		}
	}
	return asciiLower(host), nil
}

// asciiLower leaves alone what is not ASCII: some of it would turn into ASCII.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// isLabel reports whether a text is a part of a host name, in lower case.
func isLabel(s string) bool {
	odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
	return s != "" && len(s) <= maxLabel && !strings.ContainsFunc(s, odd) && s[0] != '-' && s[len(s)-1] != '-'
}
