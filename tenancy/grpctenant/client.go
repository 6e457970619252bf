package grpctenant

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pgkeel/pgkeel/providers"
)

// UnaryClient passes the context's tenant on with each unary call, in the metadata
// under key, in the place of whatever was there. A call without a tenant goes out
// as it is. Ids that are not ASCII need a key that ends in -bin, at both ends.
func UnaryClient(key string) grpc.UnaryClientInterceptor {
	mustHaveKey(key)
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, err := withTenant(ctx, key)
		if err != nil {
			return err
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
}

// StreamClient is [UnaryClient] for streams.
func StreamClient(key string) grpc.StreamClientInterceptor {
	mustHaveKey(key)
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, err := withTenant(ctx, key)
		if err != nil {
			return nil, err
		}
		return open(ctx, desc, cc, method, opts...)
	}
}

// withTenant puts the tenant into the metadata that go out.
func withTenant(ctx context.Context, key string) (context.Context, error) {
	id, ok := providers.GetTenantID(ctx)
	if !ok {
		return ctx, nil
	}
	if !isID(id) || !isASCII(id) && !strings.HasSuffix(strings.ToLower(key), "-bin") {
		return ctx, status.Error(codes.InvalidArgument, "the tenant's id cannot travel in gRPC's metadata: it must be "+
			"at most 255 bytes without white space, and ASCII unless the key ends in -bin; nothing was sent")
	}
	md, _ := metadata.FromOutgoingContext(ctx) // a copy
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(key, id)
	return metadata.NewOutgoingContext(ctx, md), nil
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > '~' })
}
