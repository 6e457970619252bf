package demo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// scene is one part of the demo.
type scene struct {
	name string
	// weight is the scene's share of the duration, for those that work for a
	// while rather than until something is done.
	weight int
	// required says that the scenes behind it make no sense without it.
	required bool
	// play does the work, tells of it in the environment's report, and checks
	// it. Its error is a check that did not hold, and ends the scene.
	play func(ctx context.Context, e *environment) error
}

// scenes are the parts of the demo in their order.
func scenes() []scene {
	return []scene{
		{name: "Load", required: true, play: load},
		{name: "Reads", weight: 4, play: reads},
		{name: "Pipelining", weight: 1, play: pipelining},
		{name: "Transactions", weight: 3, play: transactions},
		{name: "Tenants", weight: 1, play: tenants},
		{name: "Batches", play: batches},
		{name: "Export and import", play: copies},
		{name: "Killed connections", weight: 1, play: killed},
		{name: "Notifications", play: notifications},
		{name: "Limits", play: limits},
		{name: "Replica", play: replica},
		{name: "Failover", play: failover},
	}
}

// errRequired ends the demo early.
var errRequired = errors.New("the rest needs this, so the demo ends here")

// playAll plays the scenes. It fails only where going on makes no sense: after
// an interrupt, or when a scene failed that the others need.
func playAll(ctx context.Context, e *environment, list []scene, duration time.Duration) error {
	total := 0
	for _, s := range list {
		total += s.weight
	}
	for _, s := range list {
		if s.weight > 0 {
			e.slice = duration * time.Duration(s.weight) / time.Duration(total)
		}
		e.out.section(s.name)
		err := s.play(ctx, e)
		if ctx.Err() != nil {
			return fmt.Errorf("in the scene %s: %w", s.name, context.Cause(ctx))
		}
		if err == nil {
			continue
		}
		e.out.check(false, "the scene ran to its end: %v", err)
		if s.required {
			return errRequired
		}
	}
	return nil
}
