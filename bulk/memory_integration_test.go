package bulk

import (
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// most is how far the heap grew above where it was, while do ran.
func most(do func()) (peak uint64) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC() // what is garbage does not count
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
				if now := heap(); now > before {
					peak = max(peak, now-before)
				}
			}
		}
	})
	do()
	close(done)
	watching.Wait()
	return peak
}

// endless is so many bytes of lines, and never holds more than one.
func endless(bytes int) io.Reader {
	line := "1," + strings.Repeat("some text ", 20) + "\n"
	block := strings.Repeat(line, 100)
	var at int
	return readerFunc(func(b []byte) (int, error) {
		if bytes <= 0 && at == 0 {
			return 0, io.EOF
		}
		n := copy(b, block[at:])
		at, bytes = (at+n)%len(block), bytes-n
		return n, nil
	})
}

// TestMemoryIsFlat moves far more than may be in memory at a time.
func TestMemoryIsFlat(t *testing.T) {
	const (
		size  = 100 << 20
		limit = 32 << 20
	)
	db := openDB(t, `create unlogged table t (n int, v text)`)
	// Rows that are left out cost the server no disk.
	into := Into{Table: table("t"), Where: "n = 2"}
	for name, do := range map[string]func() error{
		"CopyFrom a reader": func() error {
			_, err := CopyFrom(t.Context(), db, into, FromReader(endless(size), CSV{}))
			return err
		},
		"CopyFrom an iterator": func() error {
			_, err := CopyFrom(t.Context(), db, Into{Table: table("t"), Columns: []string{"n"}}, FromSeq(func(yield func(int) bool) {
				for i := range 1_000_000 {
					if !yield(i) {
						return
					}
				}
			}))
			return err
		},
		"CopyTo": func() error {
			_, err := CopyTo(t.Context(), db, From{Query: `select repeat('x', 1000), generate_series(1, 200000)`, Compression: Gzip{Level: 1}}, io.Discard)
			return err
		},
		"ParallelLoad": func() error {
			_, err := ParallelLoad(t.Context(), db, Load{ID: "x", Into: into, Format: CSV{}}, endless(size))
			return err
		},
	} {
		var err error
		peak := most(func() { err = do() })
		t.Logf("%s: %.1f MB above idle", name, float64(peak)/(1<<20))
		if err != nil || peak > limit {
			t.Errorf("%s: %d bytes above idle, %v", name, peak, err)
		}
	}
}
