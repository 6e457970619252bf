package fault

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// upstream is where a DSN leads, and what it says.
type upstream struct {
	dsn, network, address string
	config                *pgconn.Config
}

func parse(dsn string) (*upstream, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("fault: %w", err)
	}
	u := &upstream{dsn: dsn, config: config}
	u.network, u.address = pgconn.NetworkAddress(config.Host, config.Port)
	plain := config.TLSConfig == nil
	for _, other := range config.Fallbacks {
		if other.Host != config.Host || other.Port != config.Port {
			return nil, errors.New("fault: the DSN names more than one server, and a proxy stands before one")
		}
		plain = plain || other.TLSConfig == nil
	}
	if !plain {
		return nil, errors.New("fault: the DSN insists on TLS, which a proxy cannot look into: use a server without, and sslmode=disable")
	}
	return u, nil
}

// through is the DSN with another address, without TLS. The password is written
// into it, for one from a password file was found under the server's own address.
func (u *upstream) through(addr *net.TCPAddr) string {
	if strings.HasPrefix(u.dsn, "postgres://") || strings.HasPrefix(u.dsn, "postgresql://") {
		return u.urlThrough(addr)
	}
	dsn := fmt.Sprintf("%s host=%s port=%d sslmode=disable", u.dsn, addr.IP, addr.Port) // the last one counts
	if u.config.Password != "" {
		dsn += " password='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(u.config.Password) + "'"
	}
	return strings.TrimSpace(dsn)
}

func (u *upstream) urlThrough(addr *net.TCPAddr) string {
	parsed, err := url.Parse(u.dsn)
	if err != nil { // it was parsed before
		parsed = &url.URL{Scheme: "postgres"}
	}
	parsed.Host = addr.String()
	if u.config.Password != "" {
		parsed.User = url.UserPassword(u.config.User, u.config.Password)
	}
	q := parsed.Query()
	for _, key := range []string{"host", "hostaddr", "port", "password", "sslnegotiation"} {
		q.Del(key)
	}
	q.Set("sslmode", "disable")
	parsed.RawQuery = q.Encode()
	return parsed.String()
}
