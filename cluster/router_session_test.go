package cluster

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

// at has a fake server note that position.
func (s *stage) at(name string, p providers.Position) {
	pool := s.pool(name)
	pool.mu.Lock()
	defer pool.mu.Unlock()
	pool.at = p
}

func standbyAt(lsn providers.LSN) providers.Position {
	return providers.Position{System: here, Standby: true, LSN: lsn, Replayed: lsn}
}

// sessionStage is a cluster whose session has written up to 100, and a context of it
// for reading.
func sessionStage(t *testing.T, replicas ...string) (*stage, *Session, context.Context) {
	s := newStage(t, Options{}, replicas...)
	session := NewSession()
	s.at(primaryName, primaryAt(1, 100))
	ctx := WithSession(t.Context(), session)
	if _, err := s.Exec(ctx, "insert"); err != nil {
		t.Fatal(err)
	}
	s.expect(primaryName)
	return s, session, providers.WithReadOnly(ctx)
}

// What a session wrote is read from a replica that is known to have it.
func TestSessionReadsWhereItsWritesAre(t *testing.T) {
	s, session, ctx := sessionStage(t, "a", "b", "c")
	s.at("b", standbyAt(120))
	raise(s.view().replicas[1], 120)
	for range 3 {
		if _, err := read(ctx, s, "select 1"); err != nil {
			t.Fatal(err)
		}
	}
	s.expect("b", "b", "b")
	if after := s.pools["b"].after; !slices.Equal(after, []providers.LSN{100, 120, 120}) {
		t.Errorf("it was asked to come behind %v", after)
	}
	if _, lsn, _ := session.needs(here); lsn != 120 {
		t.Errorf("the session saw %s", lsn)
	}
}

// Where none is known to, the best is asked, the others, and after a while the
// primary.
func TestSessionWaitsForReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, ctx := sessionStage(t, "a", "b")
		s.at("a", standbyAt(10))
		s.at("b", standbyAt(20))
		raise(s.view().replicas[1], 20)
		begun := time.Now()
		if from, err := read(ctx, s, "select 1"); err != nil || from != primaryName {
			t.Errorf("%s: %v", from, err)
		}
		if took := time.Since(begun); took != DefaultCausalWait {
			t.Errorf("it took %s", took)
		}
		if went := s.went(); !slices.Equal(went[:4], []string{"b", "a", "b", "a"}) || len(went) > 30 {
			t.Errorf("went to %q", went)
		}
		go func() {
			<-time.After(DefaultCausalWait / 2)
			s.at("a", standbyAt(100))
		}()
		if from, err := read(ctx, s, "select 1"); err != nil || from != "a" {
			t.Errorf("%s: %v", from, err)
		}
		if got := s.view().replicas[0].position.Load(); got != 100 {
			t.Errorf("the replica is known to be at %d", got)
		}
		s.at("a", standbyAt(10))
		s.opts.CausalWait = providers.Off
		begun = time.Now()
		s.view().replicas[0].position.Store(0)
		if from, err := read(ctx, s, "select 1"); err != nil || from != primaryName || time.Since(begun) != 0 {
			t.Errorf("%s: %v", from, err)
		}
		s.opts.Fallback = FallbackError
		if _, err := read(ctx, s, "select 1"); !errors.Is(err, ErrNoReplica) || !errors.Is(err, providers.ErrBehind) {
			t.Error(err)
		}
	})
}

// A write whose place is not known is read from the primary, which ends the doubt.
func TestSessionInDoubt(t *testing.T) {
	s, session, ctx := sessionStage(t, "a")
	s.at("a", standbyAt(200))
	session.Doubt()
	for range 2 {
		if _, err := read(ctx, s, "select 1"); err != nil {
			t.Fatal(err)
		}
	}
	s.expect(primaryName, "a")
}

// A session of an older timeline needs what survived, and what it saw.
func TestTrap38SessionOfAnOlderTimeline(t *testing.T) {
	s, session, ctx := sessionStage(t, "a")
	s.replace(func(v *view) { v.timeline, v.start = 2, 150 })
	s.at("a", standbyAt(140))
	if from, err := read(ctx, s, "select 1"); err != nil || from != primaryName {
		t.Errorf("%s: %v", from, err)
	}
	s.at("a", standbyAt(150))
	if from, err := read(ctx, s, "select 1"); err != nil || from != "a" {
		t.Errorf("%s: %v", from, err)
	}
	if timeline, _, _ := session.needs(here); timeline != 2 {
		t.Errorf("the session is on timeline %d", timeline)
	}
}

// A session of a newer timeline than the primary's waits for that primary, and reads
// nothing from the old ones.
func TestSessionOfANewerTimeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, session, ctx := sessionStage(t, "a")
		session.saw(here, 2, standbyAt(300))
		s.at("a", standbyAt(300))
		for _, ctx := range []context.Context{ctx, PreferPrimary(ctx)} {
			_, err := read(ctx, s, "select 1")
			if !errors.Is(err, errOldPrimary) || providers.OutcomeOf(err) != providers.OutcomeNotSent {
				t.Error(err)
			}
		}
		s.expect()
		if s.sought == 0 || len(s.troubles) > 0 {
			t.Errorf("they were asked for %d times, and put in doubt by %q", s.sought, s.troubles)
		}
		go func() {
			<-time.After(time.Second)
			s.replace(func(v *view) { v.timeline, v.start = 2, 250 })
		}()
		if from, err := read(ctx, s, "select 1"); err != nil || from != "a" {
			t.Errorf("%s: %v", from, err)
		}
	})
}

// A token of another cluster neither makes reads wait nor goes for one of this: the
// first read is from the primary, and the next ones are behind that.
func TestTokenOfAnotherCluster(t *testing.T) {
	s := newStage(t, Options{}, "a")
	s.at(primaryName, primaryAt(1, 100))
	s.at("a", standbyAt(90))
	session := NewSession()
	if err := session.Merge("1.b.9.5000"); err != nil {
		t.Fatal(err)
	}
	ctx := providers.WithReadOnly(WithSession(t.Context(), session))
	if from, err := read(ctx, s, "select 1"); err != nil || from != primaryName {
		t.Errorf("%s: %v", from, err)
	}
	s.at("a", standbyAt(100))
	if from, err := read(ctx, s, "select 1"); err != nil || from != "a" {
		t.Errorf("%s: %v", from, err)
	}
	if s.sought != 0 {
		t.Error("a newer primary was looked for")
	}
}
