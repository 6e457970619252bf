package pgx

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/pgtest"
	"github.com/pgkeel/pgkeel/providers"
)

// certificate makes a certificate, signed by itself, and its key.
func certificate(t testing.TB, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// withTLS has a server speak TLS and ask for client certificates like cert. Its
// files are written by the server itself, to whom they must belong.
func withTLS(t testing.TB, c *pgtest.Cluster, client string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.Primary().DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	cert, key := certificate(t, "server")
	for name, text := range map[string]string{"server.crt": cert, "server.key": key, "clients.crt": client} {
		write := "copy (select unnest(string_to_array('" + text + "', e'\\n'))) to program 'umask 077; cat > " + name + "'"
		if _, err := conn.Exec(t.Context(), write); err != nil {
			t.Fatal(err)
		}
	}
	for _, sql := range []string{"alter system set ssl_ca_file = 'clients.crt'", "alter system set ssl = on", "select pg_reload_conf()"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

// A server to which Route sends an attempt gets the client certificate of the
// route's DSN, which pgx loads from its file.
func TestRouteKeepsClientCertificates(t *testing.T) {
	cert, key := certificate(t, "app")
	dir := t.TempDir()
	for name, text := range map[string]string{"app.crt": cert, "app.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cluster := pgtest.New(t, pgtest.Options{})
	withTLS(t, cluster, cert)
	to, err := url.Parse(cluster.Primary().DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	to.RawQuery = url.Values{
		"sslmode": {"require"}, "sslcert": {filepath.Join(dir, "app.crt")}, "sslkey": {filepath.Join(dir, "app.key")},
	}.Encode()

	p := openPool(t, providers.Config{
		DSN:   nowhere(t, cluster.Primary().DSN("")),
		Route: func(context.Context) (string, error) { return to.String(), nil },
	})
	eventually(t, "the server speaks TLS", func() bool { return p.Ping(t.Context()) == nil })
	who := value[*string](t, p, "select client_dn from pg_stat_ssl where pid = pg_backend_pid()")
	if who == nil || *who != "/CN=app" {
		t.Errorf("the server does not know whom it talks to")
	}
}

// Whatever does not say where a connection goes, or as whom, stays the pool's.
func TestRedirectKeepsSettings(t *testing.T) {
	where := map[string]bool{
		"Host": true, "Port": true, "Database": true, "User": true, "Password": true, "Fallbacks": true,
		"TLSConfig": true, "SSLNegotiation": true, "SSLCertMode": true,
	}
	config, to := &pgx.ConnConfig{}, &pgx.ConnConfig{}
	own, other := reflect.ValueOf(&config.Config).Elem(), reflect.ValueOf(&to.Config).Elem()
	for _, f := range reflect.VisibleFields(own.Type()) {
		if f.IsExported() && !where[f.Name] {
			own.FieldByIndex(f.Index).Set(notZero(t, f.Type))
		}
		if f.IsExported() && where[f.Name] {
			other.FieldByIndex(f.Index).Set(notZero(t, f.Type))
		}
	}
	redirect(config, to)
	for _, f := range reflect.VisibleFields(own.Type()) {
		if f.IsExported() && own.FieldByIndex(f.Index).IsZero() {
			t.Errorf("%s is lost", f.Name)
		}
	}
}

// notZero makes a value of a type that is told from none.
func notZero(t testing.TB, of reflect.Type) reflect.Value {
	t.Helper()
	switch of.Kind() {
	case reflect.Pointer:
		return reflect.New(of.Elem())
	case reflect.Func:
		return reflect.MakeFunc(of, func([]reflect.Value) []reflect.Value { return nil })
	case reflect.Map:
		return reflect.MakeMap(of)
	case reflect.Slice:
		return reflect.MakeSlice(of, 1, 1)
	case reflect.String:
		return reflect.ValueOf("x").Convert(of)
	default:
		return reflect.ValueOf(1).Convert(of)
	}
}
