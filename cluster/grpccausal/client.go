package grpccausal

import (
	"context"
	"errors"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pgkeel/pgkeel/cluster"
)

// UnaryClient sends the token of the context's session with each unary call, and has the
// session see what the token says that comes back. A call without a session goes out as
// it is.
//
// When the answer is lost, nobody knows what was written: the session's next read goes
// to the primary.
func UnaryClient() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		session := cluster.SessionOf(ctx)
		if session == nil {
			return invoke(ctx, method, req, reply, cc, opts...)
		}
		var trailer metadata.MD
		err := invoke(withToken(ctx, session), method, req, reply, cc, append(slices.Clip(opts), grpc.Trailer(&trailer))...)
		merge(session, trailer, err)
		return err
	}
}

// StreamClient is [UnaryClient] for streams. The token comes back with the stream's end.
func StreamClient() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		session := cluster.SessionOf(ctx)
		if session == nil {
			return open(ctx, desc, cc, method, opts...)
		}
		stream, err := open(withToken(ctx, session), desc, cc, method, opts...)
		if err != nil {
			return nil, err
		}
		return &tokenStream{stream, session, !desc.ServerStreams}, nil
	}
}

// withToken puts the token into the metadata that go out.
func withToken(ctx context.Context, session *cluster.Session) context.Context {
	token := session.Token()
	if token == "" {
		return ctx
	}
	md, _ := metadata.FromOutgoingContext(ctx) // a copy
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(Key, token)
	return metadata.NewOutgoingContext(ctx, md)
}

// merge has the session see what came back from a call. Who sent no token, but
// something else, may have written something, and so may a call whose answer was lost.
func merge(session *cluster.Session, trailer metadata.MD, err error) {
	tokens := trailer.Get(Key)
	for _, token := range tokens {
		if session.Merge(token) != nil {
			session.Doubt()
		}
	}
	if len(tokens) == 0 && isLost(err) {
		session.Doubt()
	}
}

// isLost reports an error that may have come without an answer.
func isLost(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	default:
		return false
	}
}

// tokenStream is a stream whose end has a token.
type tokenStream struct {
	grpc.ClientStream

	session *cluster.Session
	// single says that the server sends one message, with which the stream ends.
	single bool
}

// RecvMsg receives a message, or the stream's end.
func (s *tokenStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	switch {
	case errors.Is(err, io.EOF) || err == nil && s.single:
		merge(s.session, s.Trailer(), nil)
	case err != nil:
		merge(s.session, s.Trailer(), err)
	}
	return err
}
