package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"
)

// Run runs the command. It returns nil only if every check held.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return usageError{err}
	}
	return run(ctx, s, scenes(), stdout, stderr)
}

func run(ctx context.Context, s settings, list []scene, stdout, stderr io.Writer) error {
	terminal := isTerminal(stdout)
	out := &report{w: stdout, paint: painter(s.wantsColor(terminal)), live: terminal}
	out.title("pgkeel demo")
	begin := time.Now()
	err := perform(ctx, s, list, out, stderr)
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", errors.Join(err, out.err))
	}
	if err == nil || errors.Is(err, errRequired) {
		out.summary(time.Since(begin))
		err = out.failed()
	}
	return errors.Join(err, out.err)
}

// perform sets up, plays the scenes, prints the results and takes down again.
func perform(ctx context.Context, s settings, list []scene, out *report, stderr io.Writer) error {
	e, err := setUp(ctx, out, stderr)
	if err != nil {
		return err
	}
	err = playAll(ctx, e, list, s.duration)
	if ctx.Err() == nil {
		e.results()
	}
	e.takeDown(ctx)
	return err
}
