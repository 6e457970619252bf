package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/pgkeel/pgkeel/providers"
)

// Host is a server that may be the primary, or a standby of it.
type Host struct {
	// DSN of the server, with one host. Empty: the handle's DSN with Address in the
	// place of its hosts.
	DSN string
	// Address is host:port, or a host alone for the first port of the handle's DSN.
	// An address of IPv6 stands in brackets if there is a port.
	Address string
	// Zone is where it stands, for [NearestZone].
	Zone string
	// Weight is its share of the reads with [Weighted]. Less than 1 counts as 1.
	Weight int
	// PrimaryOnly keeps reads away while it is a standby. It is then looked at only
	// as a possible primary.
	PrimaryOnly bool
}

// Discovery finds the servers of a cluster, besides those in the handle's DSN.
type Discovery interface {
	// Discover returns the servers there are, those that do not answer just now
	// included: a server that is left out is used no more. It is asked again and
	// again, one call at a time. primary runs statements on the primary; it is nil
	// while none is known.
	//
	// After an error the servers stay that are known: nothing is closed because a
	// name could not be looked up. Servers that are returned together with an error
	// count nevertheless, and the error is logged.
	Discover(ctx context.Context, primary providers.Querier) ([]Host, error)
}

// Func is a function that is a [Discovery].
type Func func(ctx context.Context, primary providers.Querier) ([]Host, error)

// Discover calls the function.
func (f Func) Discover(ctx context.Context, primary providers.Querier) ([]Host, error) {
	return f(ctx, primary)
}

func (f Func) check() error {
	if f == nil {
		return errors.New("Func is nil; give it a function, or leave it out")
	}
	return nil
}

// Static is servers that do not change. A DSN that names several hosts is as many
// servers.
func Static(dsns ...string) Discovery { return static(dsns) }

type static []string

// Discover returns the same each time.
func (s static) Discover(context.Context, providers.Querier) ([]Host, error) {
	var hosts []Host
	for i, dsn := range s {
		if dsn == "" {
			// As a DSN this would be the PG* environment, and mostly localhost.
			return nil, fmt.Errorf("DSN %d of %d of Static is empty; give it one, or leave it out", i+1, len(s))
		}
		named, err := addresses(dsn)
		if err != nil {
			return nil, fmt.Errorf("DSN %d of %d of Static cannot be parsed: %w", i+1, len(s), err)
		}
		for _, address := range named {
			at, err := dsnAt(dsn, address)
			if err != nil {
				return nil, fmt.Errorf("DSN %d of %d of Static: %w", i+1, len(s), err)
			}
			hosts = append(hosts, Host{DSN: at})
		}
	}
	return hosts, nil
}

func (s static) check() error {
	if len(s) == 0 {
		return errors.New("Static has no DSN; give it one, or leave it out")
	}
	_, err := s.Discover(context.Background(), nil)
	return err
}

// dsnFrom is the host's DSN for a handle with that DSN.
func (h Host) dsnFrom(dsn string) (string, error) {
	if h.DSN != "" {
		named, err := addresses(h.DSN)
		if err != nil {
			return "", err
		}
		if len(named) > 1 {
			return "", fmt.Errorf("the DSN of a host names %d hosts; make a Host of each", len(named))
		}
		return dsnAt(h.DSN, named[0])
	}
	if _, _, err := net.SplitHostPort(h.Address); err == nil || h.Address == "" {
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

// maxWeight keeps the sum of weights in range.
const maxWeight = 1 << 24

// share is the host's weight as it counts.
func (h *Host) share() int { return min(max(h.Weight, 1), maxWeight) }

// parsePort reads the number of a port.
func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%q is no port; it is a number from 1 to 65535", text)
	}
	return uint16(port), nil
}
