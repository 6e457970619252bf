// Package mocks holds gomock mocks of the contract's interfaces, one for each
// interface of provider.go, for unit tests of what stands on a provider:
//
//	pool := mocks.NewMockPool(gomock.NewController(t))
//	pool.EXPECT().Ping(gomock.Any()).Return(providers.ErrPoolClosed)
//
// "make generate" writes them anew, and lint fails when they are out of step
// with the contract.
package mocks

//go:generate mockgen -source ../../provider.go -destination mock_interfaces.go -package mocks -write_package_comment=false
