package pgx

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

const (
	// feedSize is what the driver sends in one message, without its header.
	feedSize = 65536 - 5
	// feedDepth is how many buffers there are: one that is sent while the next
	// is read.
	feedDepth = 2
	// feedGrace is how long the end of a COPY waits for a Read under way.
	feedGrace = 50 * time.Millisecond
	// feedPatience is how often a reader may return nothing in a row.
	feedPatience = 100
)

var (
	errFeedOver   = errors.New("pgkeel: the copy is over")
	errReaderFail = errors.New("pgkeel: the client's reader failed")
)

// feeder reads ahead from the caller's reader, on a goroutine of its own, so
// that a Read that blocks cannot keep the COPY from ending, a panic can be
// carried to the caller, and decompressing goes on beside sending.
type feeder struct {
	ctx  context.Context //nolint:containedctx // that of the COPY, whose data these are
	full chan portion
	free chan []byte
	// over ends the reading; done says that it ended, or never began.
	over     chan struct{}
	overOnce sync.Once
	begin    sync.Once
	done     chan struct{}
	reader   io.Reader

	current portion
	rest    []byte

	mu    sync.Mutex
	cause error
	panic any
}

// portion is what one Read returned.
type portion struct {
	data []byte
	err  error
}

// feedBuffers are reused.
var feedBuffers = sync.Pool{New: func() any { b := make([]byte, feedSize); return &b }}

func newFeeder(ctx context.Context, r io.Reader) *feeder {
	f := &feeder{
		ctx: ctx, reader: r,
		full: make(chan portion, feedDepth), free: make(chan []byte, feedDepth),
		over: make(chan struct{}), done: make(chan struct{}),
	}
	for range feedDepth {
		f.free <- *feedBuffers.Get().(*[]byte)
	}
	return f
}

// run reads until there is nothing more, or nobody wants it.
func (f *feeder) run() {
	defer close(f.done)
	returned := false
	defer func() {
		if returned {
			return
		}
		f.mu.Lock()
		if f.panic = recover(); f.panic == nil { // runtime.Goexit
			f.cause = errPanicked
		}
		f.mu.Unlock()
		f.pass(portion{err: errReaderFail})
	}()
	f.read()
	returned = true
}

func (f *feeder) read() {
	for {
		var buffer []byte
		select {
		case buffer = <-f.free:
		case <-f.over:
			return
		}
		n, err := readSome(f.reader, buffer)
		if n == 0 {
			feedBuffers.Put(&buffer)
		} else if !f.pass(portion{data: buffer[:n]}) {
			return
		}
		if err != nil {
			if err != io.EOF { //nolint:errorlint // io.EOF itself is the end, as for io.Reader
				f.fail(err)
				err = errReaderFail // what the reader says is not for the server's log
			}
			f.pass(portion{err: err})
			return
		}
	}
}

// readSome reads at least a byte, unless the reader has no more or nothing.
func readSome(r io.Reader, buffer []byte) (n int, err error) {
	for range feedPatience {
		if n, err = r.Read(buffer); n != 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

func (f *feeder) pass(p portion) bool {
	select {
	case f.full <- p:
		return true
	case <-f.over:
		return false
	}
}

func (f *feeder) fail(err error) {
	f.mu.Lock()
	f.cause = err
	f.mu.Unlock()
}

// Read gives the driver what was read, or the reason why there is no more.
func (f *feeder) Read(b []byte) (int, error) {
	f.begin.Do(func() { go f.run() })
	for len(f.rest) == 0 {
		if f.current.err != nil {
			return 0, f.current.err
		}
		if f.current.data != nil {
			f.free <- f.current.data[:cap(f.current.data)]
			f.current.data = nil
		}
		select {
		case f.current = <-f.full:
			f.rest = f.current.data
		case <-f.ctx.Done():
			return 0, f.ctx.Err()
		case <-f.over:
			return 0, errFeedOver
		}
	}
	n := copy(b, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// stop ends the feeding before its time.
func (f *feeder) stop() { f.overOnce.Do(func() { close(f.over) }) }

// end waits for the reader for a moment, and returns its panic.
func (f *feeder) end() (panicked any) {
	f.stop()
	f.begin.Do(func() { close(f.done) })
	timer := time.NewTimer(feedGrace)
	defer timer.Stop()
	select {
	case <-f.done:
		f.recycle()
	case <-timer.C:
		return nil // what it says from now on concerns nobody
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.panic
}

// recycle gives back the buffers that nobody can touch any more.
func (f *feeder) recycle() {
	for {
		select {
		case b := <-f.free:
			feedBuffers.Put(&b)
		default:
			return
		}
	}
}

// failure is the reader's own error, if it had one.
func (f *feeder) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cause
}
