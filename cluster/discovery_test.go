package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// addressesOf are hosts as text.
func addressesOf(hosts []Host) string {
	var all []string
	for _, h := range hosts {
		text := h.DSN + h.Address
		if h.Zone != "" || h.Weight != 0 {
			text += fmt.Sprintf("(%s %d)", h.Zone, h.Weight)
		}
		if h.PrimaryOnly {
			text += "!"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func wantHosts(t *testing.T, d Discovery, want string) {
	t.Helper()
	hosts, err := d.Discover(t.Context(), nil)
	if got := addressesOf(hosts); got != want || err != nil {
		t.Errorf("%q: %v, want %q", got, err, want)
	}
}

func TestTheDSNOfAHost(t *testing.T) {
	for what, c := range map[string]struct {
		host  Host
		own   string
		at    string
		fault string
	}{
		"a DSN of its own":         {host: Host{DSN: "host=a port=1", Address: "b:2"}, own: "host=c", at: "a:1"},
		"host and port":            {host: Host{Address: "a:1"}, own: "postgres://u@b:2,c:3/db", at: "a:1"},
		"a host":                   {host: Host{Address: "a"}, own: "postgres://u@b:2,c:3/db", at: "a:2"},
		"IPv4":                     {host: Host{Address: "10.0.0.1"}, own: "host=b port=7", at: "10.0.0.1:7"},
		"IPv6":                     {host: Host{Address: "2001:db8::1"}, own: "host=b port=7", at: "[2001:db8::1]:7"},
		"IPv6 and a port":          {host: Host{Address: "[2001:db8::1]:9"}, own: "host=b port=7", at: "[2001:db8::1]:9"},
		"the default port":         {host: Host{Address: "a"}, own: "host=b", at: "a:5432"},
		"nothing":                  {own: "host=b", fault: "no address"},
		"a DSN with several hosts": {host: Host{DSN: "postgres://u:geheim@a,b/db"}, own: "host=b", fault: "names 2 hosts"},
		"a DSN that is none":       {host: Host{DSN: "postgres://u:geheim@a:x/db"}, own: "host=b", fault: "parse"},
		"an own DSN that is none":  {host: Host{Address: "a"}, own: "postgres://u:geheim@a:x/db", fault: "parse"},
		"a port that is none":      {host: Host{Address: "a:x"}, own: "host=b", fault: "no address"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Setenv("PGPORT", "")
			dsn, err := c.host.dsnFrom(c.own)
			if c.fault != "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) || strings.Contains(err.Error(), "geheim") {
					t.Errorf("%q: %v, want an error with %q", dsn, err, c.fault)
				}
				return
			}
			if at, parseErr := addresses(dsn); err != nil || parseErr != nil || !slices.Equal(at, []string{c.at}) {
				t.Errorf("%q is at %v: %v, want %s", dsn, at, err, c.at)
			}
		})
	}
}

func TestStatic(t *testing.T) {
	d := Static("host=a port=1 user=u", "postgres://u:p@b:2,c:3/db?target_session_attrs=any")
	hosts, err := d.Discover(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var at []string
	for _, h := range hosts {
		dsn, err := h.dsnFrom("host=elsewhere")
		if err != nil {
			t.Fatal(err)
		}
		named, _ := addresses(dsn)
		at = append(at, named...)
	}
	if !slices.Equal(at, []string{"a:1", "b:2", "c:3"}) {
		t.Error(at)
	}
}

func TestFunc(t *testing.T) {
	boom := errors.New("boom")
	wantHosts(t, Func(func(context.Context, providers.Querier) ([]Host, error) { return []Host{{Address: "a:1"}}, nil }), "a:1")
	_, err := Func(func(context.Context, providers.Querier) ([]Host, error) { return nil, boom }).Discover(t.Context(), nil)
	if !errors.Is(err, boom) {
		t.Error(err)
	}
}

func TestCombine(t *testing.T) {
	boom := errors.New("boom")
	var found []Host
	var fault error
	changing := Func(func(context.Context, providers.Querier) ([]Host, error) { return found, fault })
	steady := Func(func(context.Context, providers.Querier) ([]Host, error) {
		return []Host{{Address: "a:1", Zone: "z"}, {Address: "b:1"}}, nil
	})
	d := Combine(steady, changing)
	for i, step := range []struct {
		found []Host
		fault error
		want  string
	}{
		{fault: boom, want: "a:1(z 0) b:1"}, // before it ever answered
		{found: []Host{{Address: "c:1"}, {Address: "a:1", Zone: "other"}}, want: "a:1(z 0) b:1 c:1"},
		{fault: boom, want: "a:1(z 0) b:1 c:1"}, // what it found last stays
		{found: []Host{{Address: "d:1"}}, fault: boom, want: "a:1(z 0) b:1 d:1"},
		{found: []Host{{DSN: "host=a"}}, want: "a:1(z 0) b:1 host=a"},
		{want: "a:1(z 0) b:1"},
	} {
		found, fault = step.found, step.fault
		hosts, err := d.Discover(t.Context(), nil)
		if got := addressesOf(hosts); got != step.want || !errors.Is(err, step.fault) {
			t.Errorf("step %d: %q, %v, want %q, %v", i, got, err, step.want, step.fault)
		}
	}
}

// One that hangs takes no time from the others: they are asked at the same time.
func TestCombineAsksAtOnce(t *testing.T) {
	var asked atomic.Int32
	both := make(chan struct{})
	meet := Func(func(ctx context.Context, _ providers.Querier) ([]Host, error) {
		if asked.Add(1) == 2 {
			close(both)
		}
		select {
		case <-both:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := Combine(meet, meet).Discover(ctx, nil); err != nil {
		t.Error(err)
	}
}

// Whatever is wrong with a strategy or a discovery is found before anything starts.
func TestFaultsOfStrategiesAndDiscoveries(t *testing.T) {
	for what, c := range map[string]struct {
		options      Options
		field, words string
	}{
		"no zone":              {Options{Strategy: NearestZone("", Random())}, "Cluster.Strategy", "no zone"},
		"nothing in a zone":    {Options{Strategy: NearestZone("a", nil)}, "Cluster.Strategy", "RoundRobin()"},
		"nothing further in":   {Options{Strategy: NearestZone("a", NearestZone("b", nil))}, "Cluster.Strategy", "RoundRobin()"},
		"no DSN":               {Options{Discovery: Static()}, "Cluster.Discovery", "no DSN"},
		"an empty DSN":         {Options{Discovery: Static("host=a", "")}, "Cluster.Discovery", "DSN 2 of 2"},
		"a DSN that is none":   {Options{Discovery: Static("postgres://u:geheim@a:x/db")}, "Cluster.Discovery", "cannot be parsed"},
		"no function":          {Options{Discovery: Func(nil)}, "Cluster.Discovery", "Func is nil"},
		"no name":              {Options{Discovery: DNS("", nil)}, "Cluster.Discovery", "no name"},
		"a name with no port":  {Options{Discovery: DNS("a:x", nil)}, "Cluster.Discovery", "no port"},
		"port 0":               {Options{Discovery: DNS("a:0", nil)}, "Cluster.Discovery", "no port"},
		"only a port":          {Options{Discovery: DNS(":1", nil)}, "Cluster.Discovery", "no name"},
		"two ports":            {Options{Discovery: DNS("a:1:2", nil)}, "Cluster.Discovery", "too many colons"},
		"an SRV name's port":   {Options{Discovery: DNS("_pg._tcp.a:1", nil)}, "Cluster.Discovery", "leave it out"},
		"no URL":               {Options{Discovery: Patroni()}, "Cluster.Discovery", "no URL"},
		"a URL without scheme": {Options{Discovery: Patroni("http://a:1", "db1:8008")}, "Cluster.Discovery", "http://db1:8008"},
		"a URL with another":   {Options{Discovery: Patroni("postgres://u:geheim@a/db")}, "Cluster.Discovery", "no URL of the API"},
		"a URL that is none":   {Options{Discovery: Patroni("http://u:geheim@a:x")}, "Cluster.Discovery", "cannot be parsed"},
		"nothing to combine":   {Options{Discovery: Combine()}, "Cluster.Discovery", "nothing to combine"},
		"nil in a combination": {Options{Discovery: Combine(nil, Func(nil), Static("host=a"))}, "Cluster.Discovery", "Func is nil"},
	} {
		t.Run(what, func(t *testing.T) {
			err := c.options.Validate()
			var fault *providers.ConfigError
			if !errors.As(err, &fault) || fault.Field != c.field || !strings.Contains(fault.Problem, c.words) {
				t.Errorf("%v, want one of %s with %q", err, c.field, c.words)
			}
			if strings.Contains(fmt.Sprint(err), "geheim") {
				t.Errorf("a secret is in the text: %v", err)
			}
		})
	}
	for what, o := range map[string]Options{
		"strategies": {Strategy: NearestZone("a", LowestLatency()), Discovery: Combine(
			Static("host=a"), DNS("a", nil), DNS("a:1", nil), DNS("_postgresql._tcp.a", nil), StatReplication(nil),
			Patroni("http://a:1", "https://u:p@b/sub"), Func(func(context.Context, providers.Querier) ([]Host, error) { return nil, nil }))},
		"own": {Strategy: own(1)},
	} {
		if err := o.Validate(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
