package grpccausal_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pgkeel/pgkeel/cluster"
	"github.com/pgkeel/pgkeel/cluster/grpccausal"
	"github.com/pgkeel/pgkeel/providers"
)

// write is a write at that position of timeline 1, through a handle.
func write(ctx context.Context, lsn providers.LSN) {
	if c := providers.CausalityOf(ctx); c != nil {
		c.Note(providers.Position{System: 7, Timeline: 1, LSN: lsn, Replayed: lsn}, true)
	}
}

// service writes at a position in each call.
type service struct {
	grpc_testing.UnimplementedTestServiceServer

	at providers.LSN
	// trailer is what the service sends by itself, and fault how it ends.
	trailer metadata.MD
	fault   error
	// saw are the tokens of the sessions in the calls' contexts.
	saw chan string
}

func (s *service) do(ctx context.Context) error {
	session := cluster.SessionOf(ctx)
	if session == nil {
		s.saw <- "none"
		return s.fault
	}
	s.saw <- session.Token()
	if s.at != 0 {
		write(ctx, s.at)
	}
	return s.fault
}

func (s *service) UnaryCall(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	_ = grpc.SetTrailer(ctx, s.trailer)
	return &grpc_testing.SimpleResponse{}, s.do(ctx)
}

func (s *service) StreamingOutputCall(_ *grpc_testing.StreamingOutputCallRequest,
	stream grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse],
) error {
	stream.SetTrailer(s.trailer)
	if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{}); err != nil {
		return err
	}
	return s.do(stream.Context()) // behind its first message
}

func (s *service) StreamingInputCall(
	stream grpc.ClientStreamingServer[grpc_testing.StreamingInputCallRequest, grpc_testing.StreamingInputCallResponse],
) error {
	stream.SetTrailer(s.trailer)
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if err := s.do(stream.Context()); err != nil {
		return err
	}
	return stream.SendAndClose(&grpc_testing.StreamingInputCallResponse{})
}

// serve starts the service behind the interceptors, and a client of it, with its own or
// without.
func serve(t *testing.T, s *service, withServer, withClient bool) grpc_testing.TestServiceClient {
	t.Helper()
	s.saw = make(chan string, 1)
	var forServer []grpc.ServerOption
	if withServer {
		forServer = []grpc.ServerOption{
			grpc.ChainUnaryInterceptor(grpccausal.UnaryServer()), grpc.ChainStreamInterceptor(grpccausal.StreamServer()),
		}
	}
	server := grpc.NewServer(forServer...)
	grpc_testing.RegisterTestServiceServer(server, s)
	listener := bufconn.Listen(1 << 16)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	options := []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}
	if withClient {
		options = append(options, grpc.WithChainUnaryInterceptor(grpccausal.UnaryClient()), grpc.WithChainStreamInterceptor(grpccausal.StreamClient()))
	}
	conn, err := grpc.NewClient("passthrough:///in-process", options...)
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
	return grpc_testing.NewTestServiceClient(conn)
}

// calls are one of each kind, up to its end.
var calls = map[string]func(ctx context.Context, c grpc_testing.TestServiceClient, opts ...grpc.CallOption) error{
	"unary": func(ctx context.Context, c grpc_testing.TestServiceClient, opts ...grpc.CallOption) error {
		_, err := c.UnaryCall(ctx, &grpc_testing.SimpleRequest{}, opts...)
		return err
	},
	"stream from the server": func(ctx context.Context, c grpc_testing.TestServiceClient, opts ...grpc.CallOption) error {
		stream, err := c.StreamingOutputCall(ctx, &grpc_testing.StreamingOutputCallRequest{}, opts...)
		for err == nil {
			_, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	},
	"stream from the client": func(ctx context.Context, c grpc_testing.TestServiceClient, opts ...grpc.CallOption) error {
		stream, err := c.StreamingInputCall(ctx, opts...)
		if err != nil {
			return err
		}
		if err := stream.Send(&grpc_testing.StreamingInputCallRequest{}); err != nil {
			return err
		}
		_, err = stream.CloseAndRecv()
		return err
	},
}

// sessionAt is a session that wrote there.
func sessionAt(t *testing.T, lsn providers.LSN) (context.Context, *cluster.Session) {
	t.Helper()
	session := cluster.NewSession()
	ctx := cluster.WithSession(t.Context(), session)
	if lsn != 0 {
		write(ctx, lsn)
	}
	return ctx, session
}

func TestThereAndBack(t *testing.T) {
	for kind, call := range calls {
		t.Run(kind, func(t *testing.T) {
			for what, c := range map[string]struct {
				service      service
				before       providers.LSN
				came, behind string
				code         codes.Code
			}{
				"a write":                {service: service{at: 20}, before: 10, came: "1.7.1.a", behind: "1.7.1.14"},
				"nothing":                {before: 10, came: "1.7.1.a", behind: "1.7.1.a"},
				"nothing at all":         {},
				"an empty session":       {service: service{at: 20}, behind: "1.7.1.14"},
				"an error":               {service: service{at: 20, fault: status.Error(codes.NotFound, "x")}, behind: "1.7.1.14", code: codes.NotFound},
				"a token of the service": {service: service{at: 20, trailer: metadata.Pairs(grpccausal.Key, "1.7.1.1e")}, behind: "1.7.1.1e"},
				"what is none":           {service: service{trailer: metadata.Pairs(grpccausal.Key, "?")}, before: 1, came: "1.7.1.1", behind: "1.7.1.1.u"},
			} {
				t.Run(what, func(t *testing.T) {
					client := serve(t, &c.service, true, true)
					ctx, session := sessionAt(t, c.before)
					if err := call(ctx, client); status.Code(err) != c.code {
						t.Fatal(err)
					}
					if came := <-c.service.saw; came != c.came || session.Token() != c.behind {
						t.Errorf("the server saw %q, and the session is %q, want %q, %q", came, session.Token(), c.came, c.behind)
					}
				})
			}
		})
	}
}

// A caller's own metadata and options stay, and the context's token is the token.
func TestWhatTheCallerSends(t *testing.T) {
	for kind, call := range calls {
		t.Run(kind, func(t *testing.T) {
			s := &service{at: 20, trailer: metadata.Pairs("x-own", "y")}
			client := serve(t, s, true, true)
			ctx, _ := sessionAt(t, 10)
			ctx = metadata.AppendToOutgoingContext(ctx, grpccausal.Key, "1.7.9.9", "x-own", "x")
			var trailer metadata.MD
			opts := make([]grpc.CallOption, 1, 3)
			opts[0] = grpc.Trailer(&trailer)
			if err := call(ctx, client, opts...); err != nil {
				t.Fatal(err)
			}
			if came := <-s.saw; came != "1.7.1.a" {
				t.Errorf("the server saw %q", came)
			}
			if trailer.Get("x-own")[0] != "y" || trailer.Get(grpccausal.Key)[0] != "1.7.1.14" {
				t.Errorf("%v", trailer)
			}
			if opts[:2][1] != nil {
				t.Error("the caller's options were written over")
			}
			if md, _ := metadata.FromOutgoingContext(ctx); md.Get(grpccausal.Key)[0] != "1.7.9.9" {
				t.Errorf("the caller's metadata were changed: %v", md)
			}
		})
	}
}

// Either end may be one that knows nothing of sessions.
func TestOneEndAlone(t *testing.T) {
	for kind, call := range calls {
		t.Run(kind, func(t *testing.T) {
			s := &service{at: 20}
			client := serve(t, s, false, true)
			ctx, session := sessionAt(t, 10)
			if err := call(ctx, client); err != nil {
				t.Fatal(err)
			}
			if came := <-s.saw; came != "none" || session.Token() != "1.7.1.a" {
				t.Errorf("the server saw %q, the session is %q", came, session.Token())
			}
			s = &service{at: 20}
			client = serve(t, s, true, false)
			if err := call(t.Context(), client); err != nil || <-s.saw != "" {
				t.Error(err)
			}
			// With the interceptor, but without a session.
			s = &service{at: 20}
			client = serve(t, s, true, true)
			if err := call(t.Context(), client); err != nil || <-s.saw != "" {
				t.Error(err)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	s := &service{at: 20}
	client := serve(t, s, true, false)
	for kind, call := range calls {
		for what, tokens := range map[string][]string{
			"none": {"secret"}, "two": {"1.7.2.3", "1.7.2.3"}, "halves": {"1.7.2", ".3"}, "huge": {strings.Repeat("1", 5000)}, "newer": {"2.7.2.3"},
		} {
			t.Run(kind+"/"+what, func(t *testing.T) {
				ctx := t.Context()
				for _, token := range tokens {
					ctx = metadata.AppendToOutgoingContext(ctx, grpccausal.Key, token)
				}
				err := call(ctx, client)
				if status.Code(err) != codes.InvalidArgument || strings.Contains(err.Error(), "secret") {
					t.Errorf("%v", err)
				}
				select {
				case <-s.saw:
					t.Error("the handler was called")
				default:
				}
			})
		}
	}
}

// An answer that is lost leaves a doubt, one that says no does not.
func TestALostAnswer(t *testing.T) {
	for kind, call := range calls {
		for code, want := range map[codes.Code]string{
			codes.Unavailable: "1.7.1.a.u", codes.DeadlineExceeded: "1.7.1.a.u", codes.Canceled: "1.7.1.a.u",
			codes.Unimplemented: "1.7.1.a", codes.PermissionDenied: "1.7.1.a",
		} {
			t.Run(kind+"/"+code.String(), func(t *testing.T) {
				client := serve(t, &service{fault: status.Error(code, "x")}, false, true)
				ctx, session := sessionAt(t, 10)
				if err := call(ctx, client); status.Code(err) != code || session.Token() != want {
					t.Errorf("%v, and the session is %q, want %q", err, session.Token(), want)
				}
			})
		}
	}
}

// A session that an interceptor ahead made is the one that counts.
func TestASessionThatIsThere(t *testing.T) {
	ctx, session := sessionAt(t, 10)
	_, err := grpccausal.UnaryServer()(ctx, nil, nil, func(ctx context.Context, _ any) (any, error) {
		if cluster.SessionOf(ctx) != session {
			t.Error("another session")
		}
		return nil, nil
	})
	if err != nil {
		t.Error(err)
	}
}
