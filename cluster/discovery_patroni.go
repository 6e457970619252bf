package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

const (
	// patroniTimeout bounds one request, so that a server that hangs leaves time for
	// the others.
	patroniTimeout = time.Second
	// patroniLimit is the most bytes of an answer. That of a large cluster has ten
	// thousand.
	patroniLimit = 1 << 20
)

// Patroni is the members of a Patroni cluster, asked of its REST API (GET /cluster).
// A URL is that of the API on one member, such as "http://db1:8008"; those of several
// are asked in turn until one answers, for at most a second each.
//
// All members count, those that do not run just now included. Their tags do as well:
// "zone" and "weight" are [Host.Zone] and [Host.Weight], noloadbalance is
// [Host.PrimaryOnly], and a replica with both noloadbalance and nofailover (or
// failover_priority 0) is left out.
func Patroni(urls ...string) Discovery { return PatroniWith(nil, urls...) }

// PatroniWith is [Patroni] with an HTTP client of your own, for certificates of your
// own for one. nil is [http.DefaultClient].
func PatroniWith(client *http.Client, urls ...string) Discovery {
	return &patroni{client: cmp.Or(client, http.DefaultClient), urls: urls}
}

type patroni struct {
	client *http.Client
	urls   []string
}

// Discover asks one URL after the other.
func (p *patroni) Discover(ctx context.Context, _ providers.Querier) ([]Host, error) {
	var faults []error
	for _, u := range p.urls {
		hosts, err := p.ask(ctx, u)
		if err == nil {
			return hosts, nil
		}
		faults = append(faults, fmt.Errorf("pgkeel: cluster: Patroni did not tell its members: %w", err))
	}
	return nil, errors.Join(faults...)
}

// ask gets the members from one URL.
func (p *patroni) ask(ctx context.Context, base string) ([]Host, error) {
	api, err := parseAPI(base)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patroniTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, api.JoinPath("cluster").String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Close = true // nothing is left open from one question to the next
	answer, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d", api.Redacted(), answer.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, patroniLimit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", api.Redacted(), err)
	}
	if len(body) > patroniLimit {
		return nil, fmt.Errorf("%s answered with more than %d bytes", api.Redacted(), patroniLimit)
	}
	hosts, err := parseMembers(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", api.Redacted(), err)
	}
	return hosts, nil
}

// member is what Patroni tells of a member, as far as it counts here.
type member struct {
	Role string         `json:"role"`
	Host string         `json:"host"`
	Port int            `json:"port"`
	Tags map[string]any `json:"tags"`
}

// parseMembers reads an answer of Patroni.
func parseMembers(body []byte) ([]Host, error) {
	var cluster struct {
		Members []member `json:"members"`
	}
	if err := json.Unmarshal(body, &cluster); err != nil {
		return nil, fmt.Errorf("what it answered is not what Patroni answers: %w", err)
	}
	var hosts []Host
	for _, m := range cluster.Members {
		// One that is being made has no address yet.
		if m.Host == "" || m.Port < 1 || m.Port > math.MaxUint16 || m.isSpare() {
			continue
		}
		zone, _ := m.Tags["zone"].(string)
		hosts = append(hosts, Host{
			Address: net.JoinHostPort(m.Host, strconv.Itoa(m.Port)),
			Zone:    zone, Weight: m.weight(), PrimaryOnly: m.is("noloadbalance"),
		})
	}
	if len(hosts) == 0 {
		return nil, errors.New("it knows of no member")
	}
	return hosts, nil
}

// isSpare reports a member that is neither to be read from nor to become the primary.
func (m *member) isSpare() bool {
	neverLeads := m.is("nofailover") || m.Tags["failover_priority"] == 0.0
	return neverLeads && m.is("noloadbalance") && m.Role != "leader" && m.Role != "master"
}

// is reports whether a tag is on.
func (m *member) is(tag string) bool { return m.Tags[tag] == true || m.Tags[tag] == "true" }

// weight is the tag of that name, a number or one as text, or 0.
func (m *member) weight() int {
	switch w := m.Tags["weight"].(type) {
	case float64:
		return int(min(max(w, 0), maxWeight))
	case string:
		n, _ := strconv.Atoi(w)
		return n
	default:
		return 0
	}
}

func (p *patroni) check() error {
	if len(p.urls) == 0 {
		return errors.New("Patroni has no URL; give it one such as http://db1:8008, or leave it out")
	}
	var faults []error
	for _, u := range p.urls {
		if _, err := parseAPI(u); err != nil {
			faults = append(faults, fmt.Errorf("Patroni: %w", err))
		}
	}
	return errors.Join(faults...)
}

// parseAPI reads the URL of a REST API. It may have a password, which is in no error.
func parseAPI(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("a URL of the API cannot be parsed; it looks like http://db1:8008")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is no URL of the API; it looks like http://db1:8008", u.Redacted())
	}
	return u, nil
}
