package providertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// testListener holds a pool that claims to LISTEN to it.
func testListener(t *testing.T, s suite) {
	p := s.open(t, 1)
	pool, ok := p.(providers.Listener)
	if !ok {
		return
	}
	held, err := p.Acquire(t.Context()) // the pool has none left
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	l, err := pool.Listen(t.Context(), providers.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(l.Close(t.Context()), l.Close(t.Context())); err != nil {
			t.Errorf("Close, twice: %v", err)
		}
	}()
	if err := l.Exec(t.Context(), `listen a; listen b`); err != nil {
		t.Fatal(err)
	}
	heard := func(want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		n, err := l.WaitForNotification(ctx)
		if err != nil || n.Channel+" "+n.Payload != want || n.PID == l.PID() {
			t.Fatalf("heard %+v, %v; want %s", n, err, want)
		}
	}
	// An interrupted wait leaves the connection as it is.
	brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if n, err := l.WaitForNotification(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an interrupted wait: %v, %v", n, err)
	}
	mustExec(t, held, `notify a, '1'`)
	mustExec(t, held, `notify b, '2'`)
	if err := l.Ping(t.Context()); err != nil { // what arrives meanwhile is kept
		t.Error(err)
	}
	heard("a 1")
	heard("b 2")
	if err := l.Exec(t.Context(), `unlisten a`); err != nil {
		t.Error(err)
	}
	mustExec(t, held, `notify a, '3'`)
	mustExec(t, held, `notify b, '4'`)
	heard("b 4")
	if err := l.Exec(t.Context(), `nonsense`); err == nil {
		t.Error("nonsense is no error")
	}
	if err := l.Ping(t.Context()); err != nil { // the connection got over it
		t.Error(err)
	}
	_, err = pool.Listen(ended(), providers.ListenOptions{})
	wantOutcome(t, "a dead context", err, providers.OutcomeNotSent)
}

// testListenersEnd has the end of the pool be that of its listening connections.
func testListenersEnd(t *testing.T, s suite) {
	p := s.open(t, 1)
	pool, ok := p.(providers.Listener)
	if !ok {
		return
	}
	l, err := pool.Listen(t.Context(), providers.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(t.Context())
	waited := make(chan error, 1)
	go func() {
		_, err := l.WaitForNotification(t.Context())
		waited <- err
	}()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-waited:
		if err == nil {
			t.Error("the wait ended without an error")
		}
	case <-time.After(patience):
		t.Fatal("the connection outlived its pool")
	}
	if _, err := pool.Listen(t.Context(), providers.ListenOptions{}); !errors.Is(err, providers.ErrPoolClosed) {
		t.Errorf("after the end: %v", err)
	}
}
