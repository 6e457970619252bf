package toxic

import (
	"io"
	"sync"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
)

// pipe is one direction of one connection: what is read from it has been through
// a stage for each effect.
type pipe struct {
	stages  [effects]*stage
	out     <-chan *stream.StreamChunk
	rest    []byte // of the chunk that is being read
	running sync.WaitGroup
}

func newPipe(from io.Reader, want settings) *pipe {
	// What is under way must not fill the line, or latency would limit bandwidth.
	first := make(chan *stream.StreamChunk, new(toxics.LatencyToxic).GetBufferSize())
	p := &pipe{}
	in := first
	for e, t := range want {
		out := make(chan *stream.StreamChunk)
		p.stages[e] = newStage(toxics.NewToxicStub(in, out), t, &p.running)
		in = out
	}
	p.out = in
	p.running.Go(func() {
		defer close(first)
		_, _ = io.Copy(stream.NewChanWriter(first), from) // the end of the connection, however it ends
	})
	return p
}

// Read reads what has come through. (toxiproxy's own reader loses bytes when the
// buffer is smaller than a chunk.)
func (p *pipe) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		c, open := <-p.out
		if !open {
			return 0, io.EOF
		}
		p.rest = c.Data
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// close ends the stages' waits and reads what is still under way, until the end of
// the connection has come through.
func (p *pipe) close() {
	for _, s := range p.stages {
		s.set(noToxic)
	}
	for range p.out {
	}
	p.running.Wait()
}

// stage has one toxic at work, which can be replaced.
type stage struct {
	stub    *toxics.ToxicStub
	running *sync.WaitGroup
	over    chan struct{}

	mu    sync.Mutex
	toxic toxics.Toxic
}

func newStage(stub *toxics.ToxicStub, t toxics.Toxic, running *sync.WaitGroup) *stage {
	s := &stage{stub: stub, running: running, over: make(chan struct{}), toxic: t}
	running.Go(s.run)
	return s
}

func (s *stage) run() {
	defer close(s.over)
	for !s.stub.Closed() {
		s.mu.Lock()
		t := s.toxic
		s.mu.Unlock()
		t.Pipe(s.stub) // until the end, or an interrupt
	}
}

// set replaces the toxic. The channel it returns is closed when the one before no
// longer works, which it does while it waits for its reader.
func (s *stage) set(t toxics.Toxic) (replaced <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.toxic = t
	done := make(chan struct{})
	s.running.Go(func() {
		defer close(done)
		select {
		case s.stub.Interrupt <- struct{}{}:
		case <-s.over:
		}
	})
	return done
}
