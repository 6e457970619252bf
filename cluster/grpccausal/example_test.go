package grpccausal_test

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pgkeel/pgkeel/cluster/grpccausal"
)

func Example_server() {
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpccausal.UnaryServer()),
		grpc.ChainStreamInterceptor(grpccausal.StreamServer()),
	)
	server.Stop()
	// Output:
}

func Example_client() {
	conn, err := grpc.NewClient("orders:443",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS in earnest
		grpc.WithChainUnaryInterceptor(grpccausal.UnaryClient()),
		grpc.WithChainStreamInterceptor(grpccausal.StreamClient()),
	)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	// Output:
}
