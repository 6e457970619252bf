package grpctenant

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pgkeel/pgkeel/providers"
)

// Option changes what the server's interceptors do.
type Option func(*server)

type server struct {
	source   Source
	optional bool
	except   []string
	valid    func(id string) bool
}

// Optional lets a call through that names no tenant, without one. It does not let
// through what is malformed.
func Optional() Option { return func(s *server) { s.optional = true } }

// Except leaves methods alone that have nothing to do with tenants, by their full
// name: "/grpc.health.v1.Health/Check" for one.
func Except(methods ...string) Option {
	return func(s *server) { s.except = append(s.except, methods...) }
}

// Valid refuses a tenant for which isValid returns false, with [ErrMalformed]. Use
// it for the form of ids, or for a look into a list of tenants.
func Valid(isValid func(id string) bool) Option {
	return func(s *server) { s.valid = isValid }
}

func newServer(source Source, options []Option) *server {
	if source == nil {
		panic("pgkeel: grpctenant: an interceptor needs a source")
	}
	s := &server{source: source, valid: func(string) bool { return true }}
	for _, option := range options {
		option(s)
	}
	return s
}

// UnaryServer puts the tenant that source finds into the context of each unary call,
// with [providers.WithTenantID], and refuses those without. A tenant is at most 255
// bytes of UTF-8, without white space and control characters.
func UnaryServer(source Source, options ...Option) grpc.UnaryServerInterceptor {
	s := newServer(source, options)
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := s.enter(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// StreamServer is [UnaryServer] for streams.
func StreamServer(source Source, options ...Option) grpc.StreamServerInterceptor {
	s := newServer(source, options)
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := s.enter(stream.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		return handler(srv, &tenantStream{stream, ctx})
	}
}

// enter returns the context of a call with its tenant.
func (s *server) enter(ctx context.Context, method string) (context.Context, error) {
	if slices.Contains(s.except, method) {
		return ctx, nil
	}
	id, err := s.source(ctx)
	switch {
	case err != nil:
		return ctx, refusal(err)
	case id == "" && s.optional:
		return ctx, nil
	case id == "":
		return ctx, ErrNoTenant
	case !isID(id) || !s.valid(id):
		return ctx, ErrMalformed
	default:
		return providers.WithTenantID(ctx, id), nil
	}
}

// refusal is the error of a source as the client sees it.
func refusal(err error) error {
	if _, isStatus := status.FromError(err); isStatus {
		return err
	}
	return status.Error(codes.Unauthenticated, "the tenant of the call could not be told; nothing was done")
}

// tenantStream is a stream whose context has the tenant.
type tenantStream struct {
	grpc.ServerStream

	ctx context.Context //nolint:containedctx // that of the stream, which this is
}

// Context returns the stream's context.
func (s *tenantStream) Context() context.Context { return s.ctx }
