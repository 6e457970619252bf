package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// patroniAnswer is an answer to GET /cluster, in the form that Patroni's
// documentation shows.
const patroniAnswer = `{
 "members": [
  {"name": "pg-0", "role": "leader", "state": "running", "api_url": "http://10.0.0.1:8008/patroni",
   "host": "10.0.0.1", "port": 5432, "timeline": 5, "tags": {"clonefrom": true, "zone": "a"}},
  {"name": "pg-1", "role": "replica", "state": "streaming", "api_url": "http://10.0.0.2:8008/patroni",
   "host": "10.0.0.2", "port": 5433, "timeline": 5, "lag": 0, "tags": {"zone": "b", "weight": 3, "nofailover": true}},
  {"name": "pg-2", "role": "sync_standby", "state": "streaming", "api_url": "http://[2001:db8::3]:8008/patroni",
   "host": "2001:db8::3", "port": 5432, "timeline": 5, "lag": 0, "tags": {"noloadbalance": true, "weight": "2"}},
  {"name": "pg-3", "role": "replica", "state": "stopped", "api_url": "http://10.0.0.4:8008/patroni",
   "host": "10.0.0.4", "port": 5432, "lag": "unknown"},
  {"name": "pg-4", "role": "replica", "state": "streaming", "host": "10.0.0.5", "port": 5432, "timeline": 5, "lag": 9000000,
   "tags": {"nofailover": true, "noloadbalance": true}},
  {"name": "pg-5", "role": "replica", "state": "in archive recovery", "host": "10.0.0.6", "port": 5432,
   "tags": {"failover_priority": 0, "noloadbalance": "true"}},
  {"name": "pg-6", "role": "replica", "state": "creating replica", "lag": "unknown"}
 ],
 "scope": "shop",
 "pause": true,
 "scheduled_switchover": {"at": "2023-09-24T10:36:00+02:00", "from": "pg-0"}
}`

const patroniHosts = "10.0.0.1:5432(a 0) 10.0.0.2:5433(b 3) [2001:db8::3]:5432( 2)! 10.0.0.4:5432"

// api is a server of Patroni's REST API that answers so.
func api(t *testing.T, status int, body string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/cluster" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// nobody is an address where nothing listens.
func nobody(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	return s.URL
}

func TestPatroni(t *testing.T) {
	good := api(t, http.StatusOK, patroniAnswer)
	wantHosts(t, Patroni(good), patroniHosts)
	wantHosts(t, Patroni(good+"/"), patroniHosts)
	// One after the other, until one answers.
	wantHosts(t, Patroni(nobody(t), api(t, http.StatusServiceUnavailable, "{}"), api(t, http.StatusOK, "?"), good), patroniHosts)
	wantHosts(t, Patroni(good, nobody(t)), patroniHosts)
}

func TestAPatroniLeaderIsAlwaysAHost(t *testing.T) {
	for _, role := range []string{"leader", "master"} {
		wantHosts(t, Patroni(api(t, http.StatusOK, `{"members": [
			{"role": "`+role+`", "host": "a", "port": 1, "tags": {"nofailover": true, "noloadbalance": true}}]}`)), "a:1!")
	}
}

func TestPatroniWithAClient(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(patroniAnswer)) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains of who does not trust it
	s.StartTLS()
	defer s.Close()
	wantHosts(t, PatroniWith(s.Client(), s.URL), patroniHosts)
	if _, err := Patroni(s.URL).Discover(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate of nobody's was taken: %v", err)
	}
}

func TestWhatIsNoAnswerOfPatroni(t *testing.T) {
	for what, c := range map[string]struct {
		status int
		body   string
		words  string
	}{
		"an error":        {http.StatusInternalServerError, patroniAnswer, "answered 500"},
		"empty":           {http.StatusOK, "", "not what Patroni answers"},
		"no JSON":         {http.StatusOK, "<html>", "not what Patroni answers"},
		"cut off":         {http.StatusOK, patroniAnswer[:200], "not what Patroni answers"},
		"a list":          {http.StatusOK, "[]", "not what Patroni answers"},
		"a port as text":  {http.StatusOK, `{"members": [{"host": "a", "port": "5432"}]}`, "not what Patroni answers"},
		"more behind it":  {http.StatusOK, patroniAnswer + "{}", "not what Patroni answers"},
		"no members":      {http.StatusOK, `{"members": []}`, "no member"},
		"null":            {http.StatusOK, `null`, "no member"},
		"members of none": {http.StatusOK, `{"members": [{"host": "", "port": 1}, {"host": "a"}, {"host": "a", "port": 65536}, {"host": "a", "port": -1}, null]}`, "no member"},
		"too much":        {http.StatusOK, patroniAnswer + strings.Repeat(" ", patroniLimit), "more than 1048576 bytes"},
	} {
		t.Run(what, func(t *testing.T) {
			hosts, err := Patroni(api(t, c.status, c.body)).Discover(t.Context(), nil)
			if len(hosts) > 0 || err == nil || !strings.Contains(err.Error(), c.words) || !strings.HasPrefix(err.Error(), "pgkeel: cluster: ") {
				t.Errorf("%v, %v, want an error with %q", hosts, err, c.words)
			}
		})
	}
}

func TestAnErrorOfPatroniHasNoPassword(t *testing.T) {
	for _, u := range []string{api(t, http.StatusBadGateway, ""), nobody(t)} {
		_, err := Patroni(strings.Replace(u, "http://", "http://admin:geheim@", 1)).Discover(t.Context(), nil)
		if err == nil || strings.Contains(err.Error(), "geheim") {
			t.Error(err)
		}
	}
}

// A member that hangs, before its answer or in the middle of it, leaves time for the
// others.
func TestPatroniThatHangs(t *testing.T) {
	for what, silent := range map[string]string{"at once": "", "in its answer": "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := &http.Client{Transport: &http.Transport{
					DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
						ours, theirs := net.Pipe()
						go answerOn(theirs, address == "good:80", silent)
						return ours, nil
					},
				}}
				begun := time.Now()
				wantHosts(t, PatroniWith(client, "http://silent", "http://good"), patroniHosts)
				if took := time.Since(begun); took != patroniTimeout {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// answerOn is a server for one request, that of the other end of a pipe.
func answerOn(conn net.Conn, good bool, otherwise string) {
	buf := make([]byte, 4096)
	if _, err := conn.Read(buf); err != nil {
		return
	}
	if good {
		otherwise = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(patroniAnswer), patroniAnswer)
	}
	_, _ = conn.Write([]byte(otherwise))
	_, _ = conn.Read(buf) // until the client ends it
	_ = conn.Close()
}

func FuzzPatroniMembers(f *testing.F) {
	f.Add([]byte(patroniAnswer))
	f.Add([]byte(`{"members": [{"host": "::1", "port": 1, "tags": {"weight": -1e300, "zone": 7, "nofailover": []}}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		hosts, err := parseMembers(body)
		if (err == nil) != (len(hosts) > 0) {
			t.Fatalf("%v, %v", hosts, err)
		}
		if err == nil && !json.Valid(body) {
			t.Fatal("it was taken")
		}
		for _, h := range hosts {
			if _, _, err := net.SplitHostPort(h.Address); err != nil || h.Weight < 0 && h.share() != 1 {
				t.Fatalf("%+v: %v", h, err)
			}
		}
	})
}
