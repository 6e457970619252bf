package demo

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

// The bounds of -duration. Under the least nothing can be seen; for longer
// there is pgkeel bench.
const (
	defaultDuration = 5 * time.Second
	minDuration     = 100 * time.Millisecond
	maxDuration     = time.Minute
)

// settings are what the flags say.
type settings struct {
	duration time.Duration
	color    string
}

// parse reads the flags. Its error is flag.ErrHelp when help was asked for,
// which has then been printed.
func parse(args []string, stdout io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("pgkeel demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // errors are returned, not printed as well
	flags.DurationVar(&s.duration, "duration", defaultDuration, "`time` that the workload takes; loading and the rest come on top")
	flags.StringVar(&s.color, "color", "auto", "`when` to use colour: auto (on a terminal, unless NO_COLOR is set), always, never")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stdout)
		fmt.Fprint(stdout, "usage: pgkeel demo [flags]\n\n"+
			"A primary, a replica and real data: what pgkeel does, with a report.\n"+
			"It starts servers of its own and removes them at the end.\n\n")
		flags.PrintDefaults()
		return s, flag.ErrHelp
	case err != nil:
		return s, fmt.Errorf("%w; see pgkeel demo -h", err)
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q; see pgkeel demo -h", flags.Arg(0))
	}
	return s, s.validate()
}

func (s settings) validate() error {
	var errs []error
	if s.duration < minDuration || s.duration > maxDuration {
		errs = append(errs, fmt.Errorf("-duration %v: from %v to %v", s.duration, minDuration, maxDuration))
	}
	switch s.color {
	case "auto", "always", "never":
	default:
		errs = append(errs, fmt.Errorf("-color %q: auto, always or never", s.color))
	}
	return errors.Join(errs...)
}

// wantsColor decides about colour.
func (s settings) wantsColor(terminal bool) bool {
	if s.color == "auto" {
		return terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return s.color == "always"
}

// isTerminal reports whether somebody watches what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// usageError is one of the command line.
type usageError struct{ error }

// Usage tells the command's exit status apart.
func (usageError) Usage() {}

// Unwrap returns what is wrong.
func (e usageError) Unwrap() error { return e.error }
