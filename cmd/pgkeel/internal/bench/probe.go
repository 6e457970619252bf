package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

// poolSizes are those among which pgxpool gets its best, shareds the numbers of
// shared connections among which pgkeel does.
var (
	poolSizes = []int{2, 4, 8, 16, 32, 64}
	shareds   = []int{1, 2, 4}
)

// sized opens a side with a pool of that size.
func sized(size int, open Opener) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		site.PoolSize = size
		return open(ctx, site)
	}
}

// onBestPool opens the baseline with the pool size that is best for the
// scenario on this machine. It finds it by trying each for a moment.
func onBestPool(op func(pool *pgxpool.Pool, site Site) Op) Opener {
	return atBest("pgxpool at its best size", poolSizes, func(size int) Opener { return sized(size, onPool(op)) })
}

// atBest opens a side with the number of connections that is best for it, and
// notes which that was.
func atBest(what string, numbers []int, with func(number int) Opener) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		best, tried, err := probe(ctx, site, numbers, with)
		if err != nil {
			return Side{}, err
		}
		side, err := with(best)(ctx, site)
		note := side.Note
		side.Note = func() string {
			said := fmt.Sprintf("%s, %d (probed: %s)", what, best, strings.Join(tried, ", "))
			if note != nil {
				said += "; " + note()
			}
			return said
		}
		return side, err
	}
}

// probes is how often each number of connections is tried. What counts is the lowest
// throughput: a few connections are fast where the scheduler happens to place them
// well, and half as fast in the run.
const probes = 2

// probe returns the number of connections with the highest throughput, and what it
// saw.
func probe(ctx context.Context, site Site, numbers []int, with func(number int) Opener) (best int, tried []string, err error) {
	lowest := make([]float64, len(numbers))
	for pass := range probes {
		for i, n := range numbers {
			speed, err := try(ctx, site, with(n))
			if err != nil {
				return 0, nil, fmt.Errorf("with %d connections: %w", n, err)
			}
			if pass == 0 || speed < lowest[i] {
				lowest[i] = speed
			}
		}
	}
	for i, n := range numbers {
		tried = append(tried, fmt.Sprintf("%d: %s", n, perSecond(lowest[i])))
	}
	return numbers[slices.Index(lowest, slices.Max(lowest))], tried, nil
}

// try measures a side by itself, as long as it gets in a round.
func try(ctx context.Context, site Site, open Opener) (speed float64, err error) {
	side, err := open(ctx, site)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, side.Close(ctx)) }()
	ctx, cancel := context.WithTimeout(ctx, site.Duration+opLimit)
	defer cancel()
	c := newCrew(ctx, site.Callers, side.Op, nil)
	defer c.dismiss()
	if err := c.rehearse(); err != nil { // which connects
		return 0, err
	}
	s, err := c.work(site.Duration)
	return quantities[0].of(&s), err
}
