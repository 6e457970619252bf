// Command pgkeel shows what the library does and measures it.
//
//	pgkeel demo     a primary, a replica and real data: what pgkeel does, with a report
//	pgkeel bench    pgkeel beside bare pgxpool, on your database or on one of its own
//
// Each has -h for its flags. The exit status is 0 only if everything held, 1 if
// something did not or went wrong, 2 if the command line cannot be understood, and
// 130 after an interrupt.
package main

import (
	"context"
	"errors"
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

// The exit statuses, besides 0.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	// A reader that goes away (pgkeel bench | head) is an error of the writing
	// like any other, after which things are put in order.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return 0
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(stderr, "pgkeel: unknown command %q\n\n%s", args[0], usage)
		return exitUsage
	}
	err := command(ctx, args[1:], stdout, stderr)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "pgkeel "+args[0]+":", err)
	var wrong interface{ Usage() }
	switch {
	case errors.As(err, &wrong):
		return exitUsage
	case ctx.Err() != nil:
		return exitInterrupted
	default:
		return exitFailed
	}
}
