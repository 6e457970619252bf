package bench

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/pgkeel/pgkeel/providers"
)

// Run runs the command. It fails when something went wrong, never because a
// ratio is bad: that is for the reader to judge. However it ends, nothing of it
// is left on the database.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return usageError{err}
	}
	err = run(ctx, s, stdout, stderr)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", err)
	}
	// Only the text: what it wraps may hold the password.
	return errors.New(providers.Redact(err.Error(), s.dsn))
}

func run(ctx context.Context, s settings, stdout, stderr io.Writer) (err error) {
	db, err := openDatabase(ctx, s.dsn, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close(ctx)) }()
	out := newReport(s, stdout)
	if err := out.begin(db); err != nil {
		return err
	}
	for _, sc := range s.scenarios {
		if sc.Standby && db.cluster == nil {
			fmt.Fprintf(stderr, "pgkeel bench: %s needs a standby of its own; leave out -dsn for it\n", sc.Name)
			continue
		}
		r, err := runScenario(ctx, s, db, sc)
		if err != nil {
			return fmt.Errorf("%s: %w", sc.Name, err)
		}
		if err := out.add(r); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
	}
	return out.end()
}

// runScenario opens both sides, warms them up and plays the rounds.
func runScenario(ctx context.Context, s settings, db *database, sc Scenario) (r Result, err error) {
	m := meterOf(s, sc)
	site := Site{DSN: db.dsn, Schema: db.schema, PoolSize: s.callers, Callers: m.callers, Duration: s.duration}
	if sc.Setup != nil {
		if err := db.admin(ctx, sc.Setup); err != nil {
			return r, fmt.Errorf("setup: %w", err)
		}
	}
	if sc.Standby {
		if site.Standby, err = db.standby(ctx); err != nil {
			return r, fmt.Errorf("standby: %w", err)
		}
	}
	undo, shared := db.keepApart(ctx, sc, site)
	defer func() { err = errors.Join(err, undo()) }()
	reset := func() error {
		if sc.Reset == nil {
			return nil
		}
		return db.admin(ctx, sc.Reset)
	}
	var sides [2]Side
	for i, open := range [2]Opener{ours: sc.Ours, baseline: sc.Baseline} {
		if sides[i], err = open(ctx, site); err != nil {
			return r, fmt.Errorf("%s: %w", sideNames[i], err)
		}
		defer func() { err = errors.Join(err, sides[i].Close(ctx)) }()
	}
	pairs, err := m.play(ctx, sides, s.rounds, reset)
	if err != nil {
		return r, err
	}
	r = summarize(sc, pairs)
	if shared != nil {
		r.Notes = append(r.Notes, "measured on processors that both sides shared with the server: "+shared.Error())
	}
	for _, side := range sides {
		if side.Note != nil {
			r.Notes = append(r.Notes, side.Note())
		}
	}
	return r, nil
}

// meterOf is the meter for a scenario.
func meterOf(s settings, sc Scenario) meter {
	m := meter{duration: s.duration, slice: cmp.Or(sc.Slice, defaultSlice), callers: 1, timed: sc.Timed}
	if sc.Parallel {
		m.callers = s.callers
	}
	m.callers = cmp.Or(sc.Callers, m.callers)
	return m
}
