package grpctenant_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pgkeel/pgkeel/providers"
	"github.com/pgkeel/pgkeel/tenancy/grpctenant"
)

const (
	key   = "x-tenant"
	check = "/grpc.health.v1.Health/Check"
)

// service notes the tenant of each call.
type service struct {
	healthpb.UnimplementedHealthServer

	seen chan string
}

func (s *service) note(ctx context.Context) {
	id, ok := providers.GetTenantID(ctx)
	if !ok {
		id = "none"
	}
	s.seen <- id
}

func (s *service) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s.note(ctx)
	return &healthpb.HealthCheckResponse{}, nil
}

func (s *service) Watch(_ *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	s.note(stream.Context())
	return stream.Send(&healthpb.HealthCheckResponse{})
}

// serve starts a server with the interceptors, and a client of it.
func serve(t *testing.T, clientKey string, source grpctenant.Source, options ...grpctenant.Option) (healthpb.HealthClient, *service) {
	t.Helper()
	s := &service{seen: make(chan string, 1)}
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpctenant.UnaryServer(source, options...)),
		grpc.ChainStreamInterceptor(grpctenant.StreamServer(source, options...)),
	)
	healthpb.RegisterHealthServer(server, s)
	listener := bufconn.Listen(1 << 16)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///in-process",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(grpctenant.UnaryClient(clientKey)),
		grpc.WithChainStreamInterceptor(grpctenant.StreamClient(clientKey)),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return healthpb.NewHealthClient(conn), s
}

// calls are a unary call and a stream.
var calls = map[string]func(ctx context.Context, c healthpb.HealthClient) error{
	"unary": func(ctx context.Context, c healthpb.HealthClient) error {
		_, err := c.Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	},
	"stream": func(ctx context.Context, c healthpb.HealthClient) error {
		stream, err := c.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	},
}

// wantSeen checks which tenant the handler saw.
func wantSeen(t *testing.T, s *service, err error, want string) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	if got := <-s.seen; got != want {
		t.Errorf("the handler saw %q, want %q", got, want)
	}
}

// wantCode checks that the call was refused, without the handler and without the
// value in the text.
func wantCode(t *testing.T, s *service, err error, want codes.Code, value string) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%v, want the code %v", err, want)
	}
	if value != "" && strings.Contains(status.Convert(err).Message(), value) {
		t.Errorf("the value is in the text: %v", err)
	}
	select {
	case id := <-s.seen:
		t.Errorf("the handler was called, for %q", id)
	default:
	}
}

func TestMetadata(t *testing.T) {
	client, s := serve(t, "x-other", grpctenant.Metadata(key), grpctenant.Valid(func(id string) bool { return id != "evil" }))
	for kind, call := range calls {
		for what, c := range map[string]struct {
			values []string
			want   string
			code   codes.Code
		}{
			"one":        {values: []string{"acme"}, want: "acme"},
			"upper case": {values: []string{"ACME"}, want: "ACME"},
			"punctuated": {values: []string{"a.b_c-d/e:1"}, want: "a.b_c-d/e:1"},
			"the most":   {values: []string{strings.Repeat("x", 255)}, want: strings.Repeat("x", 255)},
			"none":       {code: codes.Unauthenticated},
			"empty":      {values: []string{""}, code: codes.Unauthenticated},
			"twice":      {values: []string{"acme", "acme"}, code: codes.InvalidArgument},
			"two":        {values: []string{"acme", "globex"}, code: codes.InvalidArgument},
			"a space":    {values: []string{"ac me"}, code: codes.InvalidArgument},
			"huge":       {values: []string{strings.Repeat("x", 256)}, code: codes.InvalidArgument},
			"not valid":  {values: []string{"evil"}, code: codes.InvalidArgument},
		} {
			t.Run(kind+"/"+what, func(t *testing.T) {
				ctx := t.Context()
				value := ""
				for _, v := range c.values {
					ctx, value = metadata.AppendToOutgoingContext(ctx, key, v), v
				}
				if err := call(ctx, client); c.code == codes.OK {
					wantSeen(t, s, err, c.want)
				} else {
					wantCode(t, s, err, c.code, value)
				}
			})
		}
	}
}

// Binary metadata carry anything, and not everything is a tenant.
func TestBinaryMetadata(t *testing.T) {
	client, s := serve(t, "x-other", grpctenant.Metadata("x-tenant-bin"))
	for value, good := range map[string]bool{
		"ümläut": true, "租户": true, "a\x00b": false, "\x00": false, "a\nb": false, "\xff\xfe": false, "a\u202eb": false, "a\u00a0b": false,
	} {
		for _, call := range calls {
			err := call(metadata.AppendToOutgoingContext(t.Context(), "x-tenant-bin", value), client)
			if good {
				wantSeen(t, s, err, value)
			} else {
				wantCode(t, s, err, codes.InvalidArgument, value)
			}
		}
	}
}

func TestForwarding(t *testing.T) {
	client, s := serve(t, key, grpctenant.Metadata(key))
	for _, call := range calls {
		acme := providers.WithTenantID(t.Context(), "acme")
		wantSeen(t, s, call(acme, client), "acme")
		// The context's tenant is the tenant, whatever else says so.
		wantSeen(t, s, call(metadata.AppendToOutgoingContext(acme, key, "globex", "x-a", "b"), client), "acme")
		wantCode(t, s, call(t.Context(), client), codes.Unauthenticated, "")
		for _, bad := range []string{"a b", "a\x00b", "ü", strings.Repeat("x", 256)} {
			wantCode(t, s, call(providers.WithTenantID(t.Context(), bad), client), codes.InvalidArgument, bad)
		}
	}
	client, s = serve(t, "X-Tenant-Bin", grpctenant.Metadata("x-tenant-bin"))
	for _, call := range calls {
		wantSeen(t, s, call(providers.WithTenantID(t.Context(), "租户"), client), "租户")
	}
}

func TestOptionalAndExcept(t *testing.T) {
	client, s := serve(t, key, grpctenant.Metadata(key), grpctenant.Optional())
	for _, call := range calls {
		wantSeen(t, s, call(t.Context(), client), "none")
		wantSeen(t, s, call(providers.WithTenantID(t.Context(), "acme"), client), "acme")
		wantCode(t, s, call(metadata.AppendToOutgoingContext(t.Context(), key, "a", key, "b"), client), codes.InvalidArgument, "")
	}
	client, s = serve(t, key, grpctenant.Metadata(key), grpctenant.Except(check))
	wantSeen(t, s, calls["unary"](t.Context(), client), "none")
	wantCode(t, s, calls["stream"](t.Context(), client), codes.Unauthenticated, "")
}

func TestFuncAndFirst(t *testing.T) {
	claims := grpctenant.Func(func(ctx context.Context) (string, error) {
		switch token := strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ""); token {
		case "":
			return "", nil
		case "forged":
			return "", errors.New("the signature 0xdeadbeef is wrong")
		case "locked":
			return "", status.Error(codes.PermissionDenied, "the account is locked")
		default:
			return token, nil
		}
	})
	client, s := serve(t, "x-other", grpctenant.First(claims, grpctenant.Metadata(key)))
	with := func(token string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), key, "acme", "authorization", token)
	}
	for _, call := range calls {
		wantSeen(t, s, call(with("globex"), client), "globex")
		wantSeen(t, s, call(metadata.AppendToOutgoingContext(t.Context(), key, "acme"), client), "acme")
		wantCode(t, s, call(with("forged"), client), codes.Unauthenticated, "0xdeadbeef")
		wantCode(t, s, call(with("locked"), client), codes.PermissionDenied, "")
		wantCode(t, s, call(t.Context(), client), codes.Unauthenticated, "")
	}
}

func TestMistakesOfTheProgram(t *testing.T) {
	for what, mistake := range map[string]func(){
		"no key":         func() { grpctenant.Metadata("") },
		"no client key":  func() { grpctenant.UnaryClient("") },
		"no stream key":  func() { grpctenant.StreamClient("") },
		"no function":    func() { grpctenant.Func(nil) },
		"no source":      func() { grpctenant.UnaryServer(nil) },
		"no source, too": func() { grpctenant.StreamServer(nil) },
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
