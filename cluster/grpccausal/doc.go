// Package grpccausal takes a session of package cluster from one service to another
// over gRPC, so that a read in one sees what was written in the other, whichever
// standbys they read from.
//
// On the server:
//
//	grpc.NewServer(
//		grpc.ChainUnaryInterceptor(grpccausal.UnaryServer()),
//		grpc.ChainStreamInterceptor(grpccausal.StreamServer()),
//	)
//
// On the client:
//
//	grpc.NewClient(target,
//		grpc.WithChainUnaryInterceptor(grpccausal.UnaryClient()),
//		grpc.WithChainStreamInterceptor(grpccausal.StreamClient()),
//	)
//
// The token of the session travels in the metadata under [Key], with the call, and back
// in the trailer, also with an error. So the token of a stream arrives with its end,
// and only a client that receives up to there has it.
//
// # Who may send one
//
// A token is no secret and no permission. Whoever makes one up has the reads of his
// own call wait, or go to the primary.
//
// # Files
//
//	server.go  calls that come in
//	client.go  calls that go out
package grpccausal
