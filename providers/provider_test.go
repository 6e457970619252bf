package providers_test

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgkeel/pgkeel/providers"
)

// pgx's own types have the methods of the contract with the same signatures, so
// code written against pgx takes a Querier and the other way round.
var (
	_ providers.Querier   = (*pgx.Conn)(nil)
	_ providers.Querier   = (*pgxpool.Pool)(nil)
	_ providers.Querier   = (*pgxpool.Conn)(nil)
	_ providers.Querier   = pgx.Tx(nil)
	_ providers.Batcher   = (*pgxpool.Pool)(nil)
	_ providers.Batcher   = pgx.Tx(nil)
	_ providers.Copier    = (*pgxpool.Pool)(nil)
	_ providers.Copier    = pgx.Tx(nil)
	_ providers.Querier   = providers.Pool(nil)
	_ providers.Querier   = providers.Conn(nil)
	_ providers.Querier   = providers.Tx(nil)
	_ providers.Unwrapper = unwrapper(nil)
)

type unwrapper func() *pgxpool.Pool

func (u unwrapper) Unwrap() *pgxpool.Pool { return u() }
