package bench

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// The defaults of the flags. All scenarios together take a bit over a minute.
const (
	defaultRounds   = 15
	defaultDuration = 150 * time.Millisecond
	defaultCallers  = 8
)

// settings are what the flags say.
type settings struct {
	dsn       string
	json      bool
	rounds    int
	duration  time.Duration
	callers   int
	scenarios []Scenario
}

// parse reads the flags. Its error is flag.ErrHelp when help was asked for,
// which has then been printed.
func parse(args []string, stdout io.Writer) (settings, error) {
	var s settings
	var only string
	flags := flag.NewFlagSet("pgkeel bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // errors are returned, not printed as well
	flags.StringVar(&s.dsn, "dsn", "", "`database` to run on, as a URL or keywords and values (default: a PostgreSQL of its own)")
	flags.StringVar(&only, "only", "", "run the scenarios whose name this `regexp` matches")
	flags.BoolVar(&s.json, "json", false, "print one JSON object a line and metric")
	flags.IntVar(&s.rounds, "rounds", defaultRounds, "`number` of rounds, of which the medians are reported")
	flags.DurationVar(&s.duration, "duration", defaultDuration, "`time` that each side gets in a round")
	flags.IntVar(&s.callers, "callers", defaultCallers, "`number` of callers of the parallel scenarios, and size of the pools")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stdout)
		printUsage(flags, stdout)
		return s, flag.ErrHelp
	case err != nil:
		// The message quotes what it could not read, which may be a DSN that
		// ended up behind the wrong flag.
		return s, errors.New(providers.Redact(err.Error(), s.dsn) + "; see pgkeel bench -h")
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q: a database is given by -dsn", providers.Redact(flags.Arg(0), flags.Arg(0)))
	}
	s.scenarios, err = selected(Scenarios(), only)
	return s, errors.Join(err, s.validate())
}

func printUsage(flags *flag.FlagSet, w io.Writer) {
	fmt.Fprint(w, "usage: pgkeel bench [flags]\n\npgkeel beside bare pgxpool, in one process, on one database.\n\n")
	flags.PrintDefaults()
	fmt.Fprint(w, "\nscenarios:\n")
	for _, sc := range Scenarios() {
		fmt.Fprintf(w, "  %-18s %s\n", sc.Name, sc.About)
	}
}

// maxCallers keeps two pools of that size well under a server's usual limits
// of a few hundred connections.
const maxCallers = 1000

func (s settings) validate() error {
	var errs []error
	if s.rounds < 1 {
		errs = append(errs, fmt.Errorf("-rounds %d: at least 1", s.rounds))
	}
	if s.duration <= 0 {
		errs = append(errs, fmt.Errorf("-duration %v: must be positive, such as 150ms", s.duration))
	}
	if s.callers < 1 || s.callers > maxCallers {
		errs = append(errs, fmt.Errorf("-callers %d: from 1 to %d", s.callers, maxCallers))
	}
	return errors.Join(errs...)
}

// selected returns the scenarios whose names match; all of them without an
// expression.
func selected(all []Scenario, only string) ([]Scenario, error) {
	expr, err := regexp.Compile(only)
	if err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	var matched []Scenario
	names := make([]string, len(all))
	for i, sc := range all {
		names[i] = sc.Name
		if expr.MatchString(sc.Name) && (only != "" || !onlyOnRequest[sc.Name]) {
			matched = append(matched, sc)
		}
	}
	if len(matched) == 0 {
		return nil, fmt.Errorf("-only %q matches no scenario; there are %s", only, strings.Join(names, ", "))
	}
	return matched, nil
}

// usageError is one of the command line.
type usageError struct{ error }

// Usage tells the command's exit status apart.
func (usageError) Usage() {}

// Unwrap returns what is wrong.
func (e usageError) Unwrap() error { return e.error }
