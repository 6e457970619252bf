package grpctenant_test

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pgkeel/pgkeel/tenancy/grpctenant"
)

func Example_server() {
	source := grpctenant.Metadata("x-tenant")
	except := grpctenant.Except("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpctenant.UnaryServer(source, except)),
		grpc.ChainStreamInterceptor(grpctenant.StreamServer(source, except)),
	)
	server.Stop()
	// Output:
}

func Example_client() {
	conn, err := grpc.NewClient("orders:443",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS in earnest
		grpc.WithChainUnaryInterceptor(grpctenant.UnaryClient("x-tenant")),
		grpc.WithChainStreamInterceptor(grpctenant.StreamClient("x-tenant")),
	)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	// Output:
}
