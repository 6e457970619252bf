// Command pgkeel shows what the library does and measures it.
//
//	pgkeel demo     a primary, a replica and real data: what pgkeel does, with a report
//	pgkeel bench    pgkeel beside bare pgxpool, on your database or on one of its own
//
// Each has -h for its flags. The exit status is 0 only if everything held.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/pgkeel/pgkeel/cmd/pgkeel/internal/bench"
	"github.com/pgkeel/pgkeel/cmd/pgkeel/internal/demo"
)

// commands are the subcommands, each with its arguments and its output.
var commands = map[string]func(ctx context.Context, args []string, stdout, stderr io.Writer) error{
	"demo":  demo.Run,
	"bench": bench.Run,
}

const usage = `usage: pgkeel <command> [flags]

  demo     a primary, a replica and real data: what pgkeel does, with a report
  bench    pgkeel beside bare pgxpool, on your database or on one of its own

pgkeel <command> -h shows the flags.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(stderr, "pgkeel: unknown command %q\n\n%s", args[0], usage)
		return 2
	}
	if err := command(ctx, args[1:], stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "pgkeel "+args[0]+":", err)
		return 1
	}
	return 0
}
