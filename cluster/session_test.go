package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

func primaryAt(timeline uint32, lsn providers.LSN) providers.Position {
	return providers.Position{Timeline: timeline, LSN: lsn, Replayed: lsn}
}

func wantNeeds(t *testing.T, s *Session, timeline uint32, lsn providers.LSN, unknown bool) {
	t.Helper()
	if gotT, gotL, gotU := s.needs(); gotT != timeline || gotL != lsn || gotU != unknown {
		t.Errorf("it needs %d %v %t, want %d %v %t", gotT, gotL, gotU, timeline, lsn, unknown)
	}
}

func TestSessionOf(t *testing.T) {
	if SessionOf(t.Context()) != nil || providers.CausalityOf(t.Context()) != nil {
		t.Error("a session from nowhere")
	}
	s := NewSession()
	ctx := WithSession(t.Context(), s)
	if SessionOf(ctx) != s || SessionOf(t.Context()) != nil {
		t.Error("the session is not in the context")
	}
	other := NewSession()
	if SessionOf(WithSession(ctx, other)) != other {
		t.Error("the inner session does not count")
	}
	if without := WithSession(ctx, nil); SessionOf(without) != nil || providers.CausalityOf(without) != nil {
		t.Error("the session is still there")
	}
	wantNeeds(t, s, 0, 0, false)
	// What runs on the writer's pool tells the session by itself.
	providers.CausalityOf(ctx).Note(primaryAt(1, 100), true)
	wantNeeds(t, s, 1, 100, false)
	if allocs := testing.AllocsPerRun(100, func() { SessionOf(ctx) }); allocs != 0 {
		t.Error(allocs)
	}
}

func TestWhatASessionNotes(t *testing.T) {
	type step func(s *Session)
	wrote := func(timeline uint32, lsn providers.LSN) step {
		return func(s *Session) { s.wrote(primaryAt(timeline, lsn), true) }
	}
	saw := func(timeline uint32, p providers.Position) step {
		return func(s *Session) { s.saw(timeline, p) }
	}
	standby := func(lsn providers.LSN) providers.Position {
		return providers.Position{Standby: true, LSN: lsn, Replayed: lsn - 1}
	}
	lost := step(func(s *Session) { s.wrote(providers.Position{}, false) })
	for what, c := range map[string]struct {
		steps    []step
		timeline uint32
		lsn      providers.LSN
		unknown  bool
	}{
		"nothing":                          {},
		"a write":                          {[]step{wrote(1, 10)}, 1, 10, false},
		"the further write":                {[]step{wrote(1, 20), wrote(1, 10)}, 1, 20, false},
		"a new timeline":                   {[]step{wrote(1, 20), wrote(2, 10)}, 2, 10, false},
		"an old timeline":                  {[]step{wrote(2, 10), wrote(1, 20)}, 2, 10, false},
		"a read":                           {[]step{saw(1, standby(10))}, 1, 10, false},
		"a read behind a write":            {[]step{wrote(1, 10), saw(1, standby(30))}, 1, 30, false},
		"a read before a write":            {[]step{wrote(1, 40), saw(1, standby(30))}, 1, 40, false},
		"a read while no primary is known": {[]step{saw(0, standby(30))}, 0, 30, false},
		"a replica that was promoted":      {[]step{saw(1, primaryAt(2, 30))}, 2, 30, false},
		"a lost position":                  {[]step{wrote(1, 10), lost}, 1, 10, true},
		"a later write ends no doubt":      {[]step{lost, wrote(1, 10)}, 1, 10, true},
		"a read on a replica neither":      {[]step{lost, saw(1, standby(10))}, 1, 10, true},
		"a standby in the writer's place":  {[]step{wrote(1, 10), func(s *Session) { s.wrote(standby(20), true) }}, 1, 10, true},
		"a doubt from outside":             {[]step{(*Session).Doubt}, 0, 0, true},
	} {
		t.Run(what, func(t *testing.T) {
			s := NewSession()
			for _, step := range c.steps {
				step(s)
			}
			wantNeeds(t, s, c.timeline, c.lsn, c.unknown)
		})
	}
}

// A doubt ends with an operation on the primary that began after it, and no other.
func TestTheEndOfADoubt(t *testing.T) {
	s := NewSession()
	early := s.resolving()
	s.wrote(providers.Position{}, false)
	early.Note(primaryAt(1, 10), true)
	wantNeeds(t, s, 1, 10, true)

	read := s.resolving()
	s.Doubt() // while it runs
	read.Note(primaryAt(1, 20), true)
	wantNeeds(t, s, 1, 20, true)

	s.resolving().Note(providers.Position{Standby: true, LSN: 30}, true)
	wantNeeds(t, s, 1, 20, true)
	s.resolving().Note(providers.Position{}, false)
	wantNeeds(t, s, 1, 20, true)
	s.wrote(primaryAt(3, 5), true)
	s.resolving().Note(primaryAt(2, 50), true) // a former primary
	wantNeeds(t, s, 3, 5, true)
	s.resolving().Note(primaryAt(3, 7), true)
	wantNeeds(t, s, 3, 7, false)
	early.Note(primaryAt(3, 6), true) // as late as can be
	wantNeeds(t, s, 3, 7, false)
	if s.resolving().After != 0 {
		t.Error("a condition for the primary")
	}
}

func TestASessionOfMany(t *testing.T) {
	s := NewSession()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 200 {
				lsn := providers.LSN(n*8 + i)
				s.wrote(primaryAt(1, lsn), true)
				s.saw(1, providers.Position{Standby: true, LSN: lsn})
				if err := s.Merge(s.Token()); err != nil {
					t.Error(err)
				}
				s.Doubt()
				s.resolving().Note(primaryAt(1, lsn), true)
			}
		})
	}
	all.Wait()
	wantNeeds(t, s, 1, 200*8-1, false)
}

func TestToken(t *testing.T) {
	for want, c := range map[string]struct {
		timeline uint32
		lsn      providers.LSN
		doubt    bool
	}{
		"":                              {},
		"1.0.0.u":                       {doubt: true},
		"1.0.1f":                        {lsn: 0x1f},
		"1.2.3000060":                   {timeline: 2, lsn: 0x3000060},
		"1.a.3000060.u":                 {timeline: 10, lsn: 0x3000060, doubt: true},
		"1.ffffffff.ffffffffffffffff.u": {timeline: 1<<32 - 1, lsn: 1<<64 - 1, doubt: true},
	} {
		s := NewSession()
		s.advance(c.timeline, c.lsn)
		if c.doubt {
			s.Doubt()
		}
		if got := s.Token(); got != want {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
		merged := NewSession()
		if err := merged.Merge(want); err != nil {
			t.Errorf("%q: %v", want, err)
		}
		wantNeeds(t, merged, c.timeline, c.lsn, c.doubt)
	}
}

var malformed = []string{
	" ", "1", "1.", "1.2", "1.2.", "1..3", "1.2.3.", "1.2.3.u.", "1.2.3.U", "1.2.3.v", "1.2.3.u.u", "1.2.3.4", "1.2.3u", ".1.2.3",
	"0.2.3", "2.2.3", "01.2.3", "v1.2.3", "1.0.0", "1.02.3", "1.2.03", "1.-2.3", "1.+2.3", "1.2.0x3", "1.2.3_0", "1.A.3", "1.2.B",
	"1.100000000.3", "1.2.10000000000000000", "1.2. 3", "1.2.3 ", "1.2.3\n", "1.2.3\x00", "1.2.3,1.2.3", "1.2.g", "1.2.3.u.1.2.3.u",
	"1.2.٣", strings.Repeat("1", 1<<20), strings.Repeat(".", 1<<20), "1.2.0/3000060",
}

func TestMergeOfWhatIsNoToken(t *testing.T) {
	for _, text := range malformed {
		s := NewSession()
		s.wrote(primaryAt(2, 7), true)
		err := s.Merge(text)
		if !errors.Is(err, ErrToken) {
			t.Errorf("%.40q was taken: %v", text, err)
		} else if len(text) > 1 && strings.Contains(err.Error(), text) {
			t.Errorf("%.40q is in the text: %v", text, err)
		}
		wantNeeds(t, s, 2, 7, false)
	}
}

// Whatever a session is, its token is taken, and makes an equal one.
func FuzzMerge(f *testing.F) {
	for _, text := range malformed[:len(malformed)-3] {
		f.Add(text)
	}
	f.Add("1.2.3000060.u")
	f.Fuzz(func(t *testing.T, text string) {
		s := NewSession()
		if err := s.Merge(text); err != nil {
			if !errors.Is(err, ErrToken) || s.Token() != "" {
				t.Errorf("%q: %v, and the session is %q", text, err, s.Token())
			}
			return
		}
		if s.Token() != text {
			t.Errorf("%q was taken, and is %q", text, s.Token())
		}
	})
}

// The order and the number of merges do not matter, and nothing is lost by one.
func TestMergingIsAJoin(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	some := func() string {
		s := NewSession()
		if random.IntN(8) > 0 {
			s.advance(random.Uint32N(3), providers.LSN(random.Uint64N(4)))
		}
		if random.IntN(4) == 0 {
			s.Doubt()
		}
		return s.Token()
	}
	join := func(tokens ...string) string {
		s := NewSession()
		for _, token := range tokens {
			if err := s.Merge(token); err != nil {
				t.Fatal(err)
			}
		}
		return s.Token()
	}
	for range 5000 {
		a, b, c := some(), some(), some()
		what := fmt.Sprintf("seed %d: %q %q %q", seed, a, b, c)
		if join(a, b) != join(b, a) {
			t.Fatalf("not commutative: %s", what)
		}
		if join(join(a, b), c) != join(a, join(b, c)) || join(join(a, b), c) != join(a, b, c) {
			t.Fatalf("not associative: %s", what)
		}
		if join(a, a) != a || join(a, b, a, b, b) != join(a, b) {
			t.Fatalf("not idempotent: %s", what)
		}
		if join(a, "") != a || join("", a) != a {
			t.Fatalf("the empty token changes something: %s", what)
		}
		// The join is behind each of its parts.
		if join(join(a, b), a) != join(a, b) {
			t.Fatalf("something was lost: %s", what)
		}
	}
}
