package cluster

import (
	"context"
	"net"

	"github.com/pgkeel/pgkeel/providers"
)

// Host is a server that may be the primary, or a standby of it.
type Host struct {
	// DSN of the server, with one host. Empty: the handle's DSN with Address in the
	// place of its hosts.
	DSN string
	// Address is host:port, or a host alone for the first port of the handle's DSN.
	Address string
	// Zone is where it stands, for [NearestZone].
	Zone string
	// Weight is its share of the reads with [Weighted]. 0 counts as 1.
	Weight int
	// PrimaryOnly keeps reads away while it is a standby. It is then looked at as a
	// possible primary alone.
	PrimaryOnly bool
}

// Discovery finds the servers of a cluster, besides those in the handle's DSN.
type Discovery interface {
	// Discover returns the servers there are. It is asked again and again, one call
	// at a time. primary runs statements on the primary; it is nil while none is
	// known.
	//
	// After an error the servers stay that are known: nothing is closed because a
	// name could not be looked up. What is returned together with an error are the
	// servers nevertheless, and the error is logged.
	Discover(ctx context.Context, primary providers.Querier) ([]Host, error)
}

// dsnFrom is the host's DSN for a handle with that DSN.
func (h Host) dsnFrom(dsn string) (string, error) {
	if h.DSN != "" {
		return h.DSN, nil
	}
	if _, _, err := net.SplitHostPort(h.Address); err == nil {
		return dsnAt(dsn, h.Address)
	}
	own, err := addresses(dsn)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(own[0])
	if err != nil {
		return "", err
	}
	return dsnAt(dsn, net.JoinHostPort(h.Address, port))
}
