package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/pgkeel/pgkeel"
)

// The operations of this scene, as the report names them.
const (
	opOne   = "One: a place by its id"
	opAll   = "All: the places of a region"
	opEach  = "Each: a country, streamed"
	opLeave = "Each: left after 10 rows"
	opCount = "QueryCount: places of a country"
)

// known is what the source says about the table.
type known struct {
	places    []place
	regions   map[region]int
	countries map[string]int
	// codes and areas are the keys, to choose from.
	codes []string
	areas []region
}

type region struct{ country, admin1 string }

func learn(places []place) *known {
	k := &known{places: places, regions: map[region]int{}, countries: map[string]int{}}
	for _, p := range places {
		k.regions[region{p.Country, p.Admin1}]++
		k.countries[p.Country]++
	}
	for r := range k.regions {
		k.areas = append(k.areas, r)
	}
	for c := range k.countries {
		k.codes = append(k.codes, c)
	}
	slices.Sort(k.codes)
	return k
}

// reads has many callers read in all the typed ways at once, and compares every
// answer with the source.
func reads(ctx context.Context, e *environment) error {
	k := learn(e.places)
	watches := make([]stopwatch, callers)
	begin := time.Now()
	err := together(ctx, callers, func(ctx context.Context, i int) error {
		watches[i] = stopwatch{}
		for n := i; time.Since(begin) < e.slice; n++ {
			if err := k.read(ctx, e.db, watches[i], n); err != nil {
				return err
			}
		}
		return nil
	})
	over := time.Since(begin)
	e.timings.collect(over, watches, opOne, opAll, opEach, opLeave, opCount)
	total := 0
	for _, w := range watches {
		for _, took := range w {
			total += len(took)
		}
	}
	e.out.line("%d callers on %d connections: %s typed reads in %s, %s a second",
		callers, poolSize, count(total), short(over), count(int(float64(total)/over.Seconds())))
	e.check(ctx, err == nil && total > 0, "every answer is what the source says%s", because(err))
	return nil
}

// read does the nth read of a caller: mostly a single place, now and then
// something larger.
func (k *known) read(ctx context.Context, db *pgkeel.DB, watch stopwatch, n int) error {
	name, read := opOne, k.readOne
	switch {
	case n%128 == 0:
		name, read = opEach, k.readEach
	case n%256 == 1:
		name, read = opLeave, k.readSome
	case n%16 == 2:
		name, read = opAll, k.readAll
	case n%16 == 3:
		name, read = opCount, k.readCount
	}
	err := watch.time(name, func() error { return read(ctx, db) })
	if err != nil {
		operation, _, _ := strings.Cut(name, ":")
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

func (k *known) readOne(ctx context.Context, db *pgkeel.DB) error {
	want := anyOf(k.places)
	got, err := pgkeel.One[place](ctx, db, `select * from cities where id = $1`, want.ID)
	if err == nil && got != want {
		err = fmt.Errorf("read %v instead of %v", got, want)
	}
	return err
}

func (k *known) readAll(ctx context.Context, db *pgkeel.DB) error {
	area := anyOf(k.areas)
	got, err := pgkeel.All[place](ctx, db, `select * from cities where country = $1 and admin1 = $2`, area.country, area.admin1)
	return sameCount(err, len(got), k.regions[area])
}

func (k *known) readEach(ctx context.Context, db *pgkeel.DB) error {
	code := anyOf(k.codes)
	n := 0
	for p, err := range pgkeel.Each[place](ctx, db, `select * from cities where country = $1`, code) {
		if err != nil {
			return err
		}
		if p.Country == code {
			n++
		}
	}
	return sameCount(nil, n, k.countries[code])
}

// anyOf picks one by chance.
func anyOf[T any](from []T) T {
	return from[rand.IntN(len(from))] //nolint:gosec // chance needs no secrecy
}

// enough is after how many rows readSome leaves.
const enough = 10

// readSome leaves the stream early: the rest of the table never comes over.
func (k *known) readSome(ctx context.Context, db *pgkeel.DB) error {
	n := 0
	for _, err := range pgkeel.Each[place](ctx, db, `select * from cities`) {
		if err != nil {
			return err
		}
		if n++; n == enough {
			break
		}
	}
	return sameCount(nil, n, min(enough, len(k.places)))
}

func (k *known) readCount(ctx context.Context, db *pgkeel.DB) error {
	code := anyOf(k.codes)
	n, err := db.QueryCount(ctx, `select count(*) from cities where country = $1`, code)
	return sameCount(err, int(n), k.countries[code])
}

var errDifferent = errors.New("the answer is not what the source says")

func sameCount(err error, got, want int) error {
	if err == nil && got != want {
		return fmt.Errorf("%w: %d instead of %d", errDifferent, got, want)
	}
	return err
}
