package toxic

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/Shopify/toxiproxy/v2/toxics"

	"github.com/pgkeel/pgkeel/pgtest/fault"
)

// effect is the place of a toxic in a pipe.
type effect int

const (
	delaying effect = iota
	throttling
	effects
)

var noToxic = new(toxics.NoopToxic)

// settings are the toxics of one direction.
type settings [effects]toxics.Toxic

// line lays the pipes of all connections, and keeps them in step with what is set.
type line struct {
	mu    sync.Mutex
	want  map[fault.Direction]*settings
	pipes map[*pipe]fault.Direction
}

func newLine() *line {
	l := &line{want: map[fault.Direction]*settings{}, pipes: map[*pipe]fault.Direction{}}
	for _, d := range []fault.Direction{fault.ToServer, fault.ToClient} {
		l.want[d] = &settings{noToxic, noToxic}
	}
	return l
}

// Lay implements fault.Line.
func (l *line) Lay(d fault.Direction, from io.Reader) io.ReadCloser {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := newPipe(from, *l.want[d])
	l.pipes[p] = d
	return &laid{pipe: p, line: l}
}

// laid is a pipe that the line forgets when it is closed.
type laid struct {
	*pipe
	line *line
}

func (p *laid) Close() error {
	p.line.mu.Lock()
	delete(p.line.pipes, p.pipe)
	p.line.mu.Unlock()
	p.close()
	return nil
}

// grace is how long set waits for a toxic that is waiting for its reader.
const grace = time.Second

// set puts a toxic in its place in all pipes of the direction, so that it works on
// what is sent from now on.
func (l *line) set(d fault.Direction, e effect, t toxics.Toxic) error {
	if d < fault.ToServer || d > fault.Both {
		return fmt.Errorf("toxic: %d is not a direction", d)
	}
	timeout := time.After(grace)
	for _, replaced := range l.replace(d, e, t) {
		select {
		case <-replaced:
		case <-timeout:
			return nil // it follows when the reader reads again
		}
	}
	return nil
}

func (l *line) replace(d fault.Direction, e effect, t toxics.Toxic) (replaced []<-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for way, want := range l.want {
		if way&d != 0 {
			want[e] = t
		}
	}
	for p, way := range l.pipes {
		if way&d != 0 {
			replaced = append(replaced, p.stages[e].set(t))
		}
	}
	return replaced
}

func (l *line) clear() {
	for e := range effects {
		_ = l.set(fault.Both, e, noToxic) // Both is a direction
	}
}
