package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

// poolSizes are those among which pgxpool gets its best.
var poolSizes = []int{2, 4, 8, 16, 32, 64}

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
	return func(ctx context.Context, site Site) (Side, error) {
		best, tried, err := probe(ctx, site, poolSizes, onPool(op))
		if err != nil {
			return Side{}, err
		}
		side, err := sized(best, onPool(op))(ctx, site)
		side.Note = func() string {
			return fmt.Sprintf("pgxpool at its best size, %d (probed: %s)", best, strings.Join(tried, ", "))
		}
		return side, err
	}
}

// probe returns the size with the highest throughput, and what it saw.
func probe(ctx context.Context, site Site, sizes []int, open Opener) (best int, tried []string, err error) {
	var highest float64
	for _, size := range sizes {
		speed, err := try(ctx, site, sized(size, open))
		if err != nil {
			return 0, nil, fmt.Errorf("a pool of %d: %w", size, err)
		}
		tried = append(tried, fmt.Sprintf("%d: %s", size, perSecond(speed)))
		if speed > highest {
			best, highest = size, speed
		}
	}
	return best, tried, nil
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
