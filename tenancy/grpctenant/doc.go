// Package grpctenant puts the tenant of a gRPC call into its context, where package
// tenancy finds it, and passes the tenant on to other services.
//
// On the server:
//
//	source := grpctenant.Metadata("x-tenant")
//	grpc.NewServer(
//		grpc.ChainUnaryInterceptor(grpctenant.UnaryServer(source)),
//		grpc.ChainStreamInterceptor(grpctenant.StreamServer(source)),
//	)
//
// On the client:
//
//	grpc.NewClient(target,
//		grpc.WithChainUnaryInterceptor(grpctenant.UnaryClient("x-tenant")),
//		grpc.WithChainStreamInterceptor(grpctenant.StreamClient("x-tenant")),
//	)
//
// A call without a tenant ends with the code Unauthenticated, one whose tenant makes
// no sense with InvalidArgument; the handler is not called.
//
// # Who says so
//
// Metadata come from whoever calls. They tell which tenant is meant, not that the
// caller may be that tenant: check the caller as well, or take the tenant from the
// verified token in a [Func].
//
// # Files
//
//	source.go  where a tenant comes from
//	server.go  what becomes of a call that comes in
//	client.go  calls that go out
package grpctenant
