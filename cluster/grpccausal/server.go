package grpccausal

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pgkeel/pgkeel/cluster"
)

// Key is where the token is in the metadata.
const Key = "pgkeel-token"

// ErrMalformed means that what a call sends under [Key] is no token, or that it sends
// two. The handler was not called.
var ErrMalformed = status.Error(codes.InvalidArgument, "the metadata under "+Key+" are no token of a session; nothing was done")

// UnaryServer puts a session into the context of each unary call, if there is none, has
// it see what the call's token says, and sends its token back. A call whose token is
// none ends with [ErrMalformed].
func UnaryServer() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, session, err := enter(ctx)
		if err != nil {
			return nil, err
		}
		reply, err := handler(ctx, req)
		// Setting it fails for a context that is no call's, which this one is.
		_ = grpc.SetTrailer(ctx, trailerOf(session))
		return reply, err
	}
}

// StreamServer is [UnaryServer] for streams.
func StreamServer() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, session, err := enter(stream.Context())
		if err != nil {
			return err
		}
		err = handler(srv, &sessionStream{stream, ctx})
		stream.SetTrailer(trailerOf(session))
		return err
	}
}

// enter returns the context of a call with its session.
func enter(ctx context.Context) (context.Context, *cluster.Session, error) {
	session := cluster.SessionOf(ctx)
	if session == nil {
		session = cluster.NewSession()
		ctx = cluster.WithSession(ctx, session)
	}
	tokens := metadata.ValueFromIncomingContext(ctx, Key)
	if len(tokens) > 1 || session.Merge(strings.Join(tokens, "")) != nil {
		return ctx, nil, ErrMalformed
	}
	return ctx, session, nil
}

// trailerOf is the session's token as metadata.
func trailerOf(session *cluster.Session) metadata.MD {
	if token := session.Token(); token != "" {
		return metadata.Pairs(Key, token)
	}
	return nil
}

// sessionStream is a stream whose context has the session.
type sessionStream struct {
	grpc.ServerStream

	ctx context.Context //nolint:containedctx // that of the stream, which this is
}

// Context returns the stream's context.
func (s *sessionStream) Context() context.Context { return s.ctx }
