module github.com/pgkeel/pgkeel

go 1.25.0

require (
	github.com/jackc/pgx/v5 v5.12.0
	go.uber.org/goleak v1.3.0
	go.uber.org/mock v0.6.0
)
