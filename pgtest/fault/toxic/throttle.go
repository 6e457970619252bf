package toxic

import (
	"slices"
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
)

// throttle is a toxic that passes so many bytes a second.
type throttle struct{ rate int }

// Pipe implements toxics.Toxic.
func (t *throttle) Pipe(stub *toxics.ToxicStub) {
	var free time.Time // when what went before has passed
	for {
		select {
		case <-stub.Interrupt:
			return
		case c := <-stub.Input:
			if c == nil {
				stub.Close()
				return
			}
			var interrupted bool
			if free, interrupted = t.pass(stub, c, free); interrupted {
				return
			}
		}
	}
}

// pass sends a chunk on in parts of a twentieth of a second, or the rest at once
// if it is interrupted.
func (t *throttle) pass(stub *toxics.ToxicStub, c *stream.StreamChunk, free time.Time) (time.Time, bool) {
	if now := time.Now(); free.Before(now) {
		free = now
	}
	interrupted := false
	for part := range slices.Chunk(c.Data, max(1, t.rate/20)) {
		free = free.Add(time.Duration(len(part)) * time.Second / time.Duration(t.rate))
		if !interrupted {
			select {
			case <-time.After(time.Until(free)):
			case <-stub.Interrupt:
				interrupted = true
			}
		}
		stub.Output <- &stream.StreamChunk{Data: part, Timestamp: c.Timestamp}
	}
	return free, interrupted
}
