package httptenant_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/tenancy/httptenant"
)

// refused is what the tests see of a request that did not reach its handler.
const refused = "(refused)"

// tenantOf is the tenant that the handler saw, empty for none, or refused.
func tenantOf(t *testing.T, handler func(http.Handler) http.Handler, r *http.Request) (tenant string, answer *httptest.ResponseRecorder) {
	t.Helper()
	tenant = refused
	answer = httptest.NewRecorder()
	handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		tenant, _ = providers.GetTenantID(r.Context())
	})).ServeHTTP(answer, r)
	if (tenant == refused) != (answer.Code != http.StatusOK) {
		t.Errorf("status %d, and the handler saw %q", answer.Code, tenant)
	}
	return tenant, answer
}

func request() *http.Request {
	return httptest.NewRequest(http.MethodGet, "http://example.com/", http.NoBody)
}

func TestHeader(t *testing.T) {
	tenants := httptenant.Middleware(httptenant.Header("x-tenant"))
	for what, c := range map[string]struct {
		values []string
		want   string
	}{
		"one":           {[]string{"acme"}, "acme"},
		"case is kept":  {[]string{"ACME"}, "ACME"},
		"unicode":       {[]string{"租户-ü"}, "租户-ü"},
		"the most":      {[]string{strings.Repeat("x", 255)}, strings.Repeat("x", 255)},
		"none":          {nil, refused},
		"empty":         {[]string{""}, refused},
		"twice":         {[]string{"acme", "acme"}, refused},
		"two":           {[]string{"acme", "globex"}, refused},
		"one and empty": {[]string{"acme", ""}, refused},
		"joined":        {[]string{"acme, globex"}, refused},
		"huge":          {[]string{strings.Repeat("x", 1<<20)}, refused},
		"a byte more":   {[]string{strings.Repeat("x", 256)}, refused},
		"NUL":           {[]string{"ac\x00me"}, refused},
		"a line":        {[]string{"ac\r\nme"}, refused},
		"a space":       {[]string{"ac me"}, refused},
		"spaces":        {[]string{"   "}, refused},
		"odd spaces":    {[]string{"ac\u00a0me"}, refused},
		"invisible":     {[]string{"ac\u200bme"}, refused},
		"backwards":     {[]string{"ac\u202eme"}, refused},
		"not UTF-8":     {[]string{"ac\xffme"}, refused},
	} {
		t.Run(what, func(t *testing.T) {
			r := request()
			r.Header["X-Tenant"] = c.values
			got, answer := tenantOf(t, tenants, r)
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if got == refused && (answer.Code != http.StatusBadRequest || answer.Body.String() != "Bad Request\n") {
				t.Errorf("%d: %q", answer.Code, answer.Body)
			}
		})
	}
}

func TestSubdomain(t *testing.T) {
	long := strings.Repeat("x", 63)
	for _, domain := range []string{"example.com", "Example.COM"} {
		tenants := httptenant.Middleware(httptenant.Subdomain(domain), httptenant.Optional())
		for host, want := range map[string]string{
			"acme.example.com":                 "acme",
			"ACME.Example.Com":                 "acme",
			"acme.example.com:8080":            "acme",
			"a-1.example.com":                  "a-1",
			"7.example.com":                    "7",
			"xn--bcher-kva.example.com":        "xn--bcher-kva",
			long + ".example.com":              long,
			"":                                 "", // none
			"example.com":                      "",
			"example.com:443":                  "",
			"acme.example.org":                 "",
			"acmeexample.com":                  "",
			"evil-example.com":                 "",
			"acme.example.com.evil.org":        "",
			"acme.example.com.":                "",
			"com":                              "",
			"127.0.0.1":                        "",
			"[::1]:80":                         "",
			"[acme.example.com]:80":            "acme", // odd, and the same host
			"a.b.example.com":                  refused,
			".example.com":                     refused,
			"..example.com":                    refused,
			"acme..example.com":                refused,
			"-acme.example.com":                refused,
			"acme-.example.com":                refused,
			"ac_me.example.com":                refused,
			"ac me.example.com":                refused,
			"ac\x00me.example.com":             refused,
			"acme\n.example.com":               refused,
			"bücher.example.com":               refused,
			"\u212aelvin.example.com":          refused, // the sign that lower case makes a k of
			"acme%2eevil.example.com":          refused,
			"acme@evil.example.com":            refused,
			"acme.example.com:":                refused,
			"acme.example.com:http":            refused,
			"acme.example.com:99999":           refused,
			"acme.example.com:80:80":           refused,
			"x" + long + ".example.com":        refused,
			strings.Repeat("a.", 5000) + "com": "",
		} {
			r := request()
			r.Host = host
			if got, _ := tenantOf(t, tenants, r); got != want {
				t.Errorf("%q: %q, want %q", host, got, want)
			}
		}
	}
}

func TestPathValue(t *testing.T) {
	var seen string
	mux := http.NewServeMux()
	mux.Handle("/t/{tenant}/orders", httptenant.Middleware(httptenant.PathValue("tenant"))(http.HandlerFunc(
		func(_ http.ResponseWriter, r *http.Request) { seen, _ = providers.GetTenantID(r.Context()) })))
	for path, want := range map[string]string{
		"/t/acme/orders": "acme", "/t/%C3%BC/orders": "ü", "/t/a%2Fb/orders": "a/b",
		"/t/a%00b/orders": refused, "/t/a%20b/orders": refused, "/t/%FF/orders": refused, "/t/" + strings.Repeat("x", 256) + "/orders": refused,
	} {
		seen = refused
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		if seen != want || (want == refused) != (answer.Code == http.StatusBadRequest) {
			t.Errorf("%s: %q, want %q; %d", path, seen, want, answer.Code)
		}
	}
}

var errForged = errors.New("the signature is wrong")

// claims finds the tenant of a token.
func claims(r *http.Request) (string, error) {
	if token := r.Header.Get("Authorization"); token != "forged" {
		return token, nil
	}
	return "", errForged
}

func TestFirst(t *testing.T) {
	tenants := httptenant.Middleware(httptenant.First(
		httptenant.Func(claims), httptenant.Header("X-Tenant"), httptenant.Subdomain("example.com")))
	for _, c := range []struct {
		token, host string
		header      []string
		want        string
	}{
		{token: "a", header: []string{"b"}, host: "c.example.com", want: "a"},
		{header: []string{"b"}, host: "c.example.com", want: "b"},
		{host: "c.example.com", want: "c"},
		{header: []string{""}, host: "c.example.com", want: "c"},
		{host: "example.com", want: refused},
		// What is wrong in one is not made good by the next.
		{token: "forged", header: []string{"b"}, want: refused},
		{header: []string{"b", "b"}, host: "c.example.com", want: refused},
		{header: []string{"\x00"}, host: "c.example.com", want: refused},
	} {
		r := request()
		r.Host, r.Header["X-Tenant"] = c.host, c.header
		r.Header.Set("Authorization", c.token)
		if got, _ := tenantOf(t, tenants, r); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestOptional(t *testing.T) {
	tenants := httptenant.Middleware(httptenant.Header("X-Tenant"), httptenant.Optional())
	r := request()
	if got, _ := tenantOf(t, tenants, r); got != "" {
		t.Errorf("%q", got)
	}
	r.Header["X-Tenant"] = []string{"a", "b"}
	if got, _ := tenantOf(t, tenants, r); got != refused {
		t.Errorf("%q", got)
	}
}

func TestValidAndStatus(t *testing.T) {
	tenants := httptenant.Middleware(httptenant.Header("X-Tenant"), httptenant.Status(http.StatusNotFound),
		httptenant.Valid(func(id string) bool { return id == "acme" }))
	for id, want := range map[string]string{"acme": "acme", "<script>": refused, "": refused} {
		r := request()
		r.Header.Set("X-Tenant", id)
		got, answer := tenantOf(t, tenants, r)
		if got != want || got == refused && (answer.Code != http.StatusNotFound || answer.Body.String() != "Not Found\n") {
			t.Errorf("%q: %q, %d, %q", id, got, answer.Code, answer.Body)
		}
	}
}

func TestRefuse(t *testing.T) {
	var reason error
	tenants := httptenant.Middleware(httptenant.First(httptenant.Func(claims), httptenant.Header("X-Tenant")),
		httptenant.Refuse(func(w http.ResponseWriter, _ *http.Request, err error) {
			reason = err
			w.WriteHeader(http.StatusUnauthorized)
		}))
	for _, c := range []struct {
		name, value string
		want        error
	}{
		{"X-Other", "", httptenant.ErrNoTenant},
		{"X-Tenant", "secret secret", httptenant.ErrMalformed},
		{"Authorization", "forged", errForged},
	} {
		r := request()
		r.Header.Set(c.name, c.value)
		if got, answer := tenantOf(t, tenants, r); got != refused || answer.Code != http.StatusUnauthorized || !errors.Is(reason, c.want) {
			t.Errorf("%s: %q, %d, %v", c.name, got, answer.Code, reason)
		}
		if strings.Contains(reason.Error(), "secret") {
			t.Errorf("the value is in the text: %v", reason)
		}
	}
}

func TestMistakesOfTheProgram(t *testing.T) {
	for what, mistake := range map[string]func(){
		"no header":      func() { httptenant.Header("") },
		"no wildcard":    func() { httptenant.PathValue("") },
		"no function":    func() { httptenant.Func(nil) },
		"no source":      func() { httptenant.Middleware(nil) },
		"no domain":      func() { httptenant.Subdomain("") },
		"a leading dot":  func() { httptenant.Subdomain(".example.com") },
		"a trailing dot": func() { httptenant.Subdomain("example.com.") },
		"a port":         func() { httptenant.Subdomain("example.com:80") },
		"a wildcard":     func() { httptenant.Subdomain("*.example.com") },
		"no error":       func() { httptenant.Status(http.StatusOK) },
	} {
		t.Run(what, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("it was taken")
				}
			}()
			mistake()
		})
	}
}

// A real server and client, for what they refuse by themselves.
func TestOverTheWire(t *testing.T) {
	server := httptest.NewServer(httptenant.Middleware(httptenant.Subdomain("example.com"))(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			id, _ := providers.GetTenantID(r.Context())
			w.Header().Set("X-Seen", id)
		})))
	defer server.Close()
	for host, want := range map[string]string{"Acme.example.com:80": "acme", "a.b.example.com": "", "example.com": ""} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		answer, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if got := answer.Header.Get("X-Seen"); got != want || (want == "") != (answer.StatusCode == http.StatusBadRequest) {
			t.Errorf("%s: %q, %d", host, got, answer.StatusCode)
		}
	}
}
