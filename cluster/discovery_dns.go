package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pgkeel/pgkeel/providers"
)

// DNS is the servers behind a name, which is looked up afresh each time:
//
//   - the addresses (A and AAAA) of a name such as "standbys.db.internal", with the
//     first port of the handle's DSN, or with one of its own: "standbys.db.internal:5433"
//   - the targets and ports of SRV records, if the name begins with an underscore, as
//     "_postgresql._tcp.db.internal" does. Their weight is [Host.Weight], and their
//     priority does not count, since the primary may be any of them.
//
// With sslmode=verify-full a server's certificate has to name what is connected to.
// Certificates name addresses rarely: use SRV records then, whose targets are names.
//
// resolver is nil for [net.DefaultResolver].
func DNS(name string, resolver *net.Resolver) Discovery {
	return &dns{name: name, resolver: cmp.Or(resolver, net.DefaultResolver)}
}

type dns struct {
	name     string
	resolver *net.Resolver
}

// Discover looks the name up.
func (d *dns) Discover(ctx context.Context, _ providers.Querier) ([]Host, error) {
	find := d.addresses
	if d.isService() {
		find = d.targets
	}
	hosts, err := find(ctx)
	if err != nil {
		err = fmt.Errorf("pgkeel: cluster: the servers cannot be looked up: %w", err)
	}
	return hosts, err
}

func (d *dns) isService() bool { return strings.HasPrefix(d.name, "_") }

// addresses are those of a name, in an order that does not turn as that of the
// answers does.
func (d *dns) addresses(ctx context.Context) ([]Host, error) {
	name, port, err := splitPort(d.name)
	if err != nil {
		return nil, err
	}
	found, err := d.resolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, err
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	slices.SortFunc(found, func(a, b netip.Addr) int { return a.Compare(b) })
	var hosts []Host
	for _, address := range slices.Compact(found) {
		h := Host{Address: address.String()}
		if port != "" {
			h.Address = net.JoinHostPort(h.Address, port)
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// targets are those of SRV records. Some can be well-formed beside an error.
func (d *dns) targets(ctx context.Context) ([]Host, error) {
	_, records, err := d.resolver.LookupSRV(ctx, "", "", d.name)
	var hosts []Host
	for _, r := range records {
		// A target of "." says that there is no such service.
		if target := strings.TrimSuffix(r.Target, "."); target != "" {
			address := net.JoinHostPort(target, strconv.Itoa(int(r.Port)))
			hosts = append(hosts, Host{Address: address, Weight: int(r.Weight)})
		}
	}
	if len(hosts) == 0 && err == nil {
		err = fmt.Errorf("%s has no target", d.name)
	}
	slices.SortFunc(hosts, func(a, b Host) int { return strings.Compare(a.Address, b.Address) })
	return hosts, err
}

func (d *dns) check() error {
	if d.name == "" {
		return errors.New("DNS has no name; give it one, or leave it out")
	}
	if d.isService() {
		if strings.Contains(d.name, ":") {
			return fmt.Errorf("DNS: %q is a name of SRV records, which tell the port; leave it out", d.name)
		}
		return nil
	}
	if _, _, err := splitPort(d.name); err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	return nil
}

// splitPort takes the port off a name, if there is one.
func splitPort(name string) (host, port string, err error) {
	if !strings.Contains(name, ":") {
		return name, "", nil
	}
	if host, port, err = net.SplitHostPort(name); err == nil {
		_, err = parsePort(port)
	}
	if err == nil && host == "" {
		err = fmt.Errorf("%q has no name in front of the port", name)
	}
	return host, port, err
}
