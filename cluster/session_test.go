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

// here is the cluster of most tests, and elsewhere another one.
const here, elsewhere = 7, 11

func primaryAt(timeline uint32, lsn providers.LSN) providers.Position {
	return providers.Position{System: here, Timeline: timeline, LSN: lsn, Replayed: lsn}
}

func wantNeeds(t *testing.T, s *Session, timeline uint32, lsn providers.LSN, unknown bool) {
	t.Helper()
	if gotT, gotL, gotU := s.needs(here); gotT != timeline || gotL != lsn || gotU != unknown {
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
		return func(s *Session) { s.saw(here, timeline, p) }
	}
	standby := func(lsn providers.LSN) providers.Position {
		return providers.Position{System: here, Standby: true, LSN: lsn, Replayed: lsn - 1}
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

	s.resolving().Note(providers.Position{System: here, Standby: true, LSN: 30}, true)
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
				s.saw(here, 1, providers.Position{System: here, Standby: true, LSN: lsn})
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
		"":                                {},
		"1.u":                             {doubt: true},
		"1.7.0.1f":                        {lsn: 0x1f},
		"1.7.2.3000060":                   {timeline: 2, lsn: 0x3000060},
		"1.7.a.3000060.u":                 {timeline: 10, lsn: 0x3000060, doubt: true},
		"1.7.ffffffff.ffffffffffffffff.u": {timeline: 1<<32 - 1, lsn: 1<<64 - 1, doubt: true},
	} {
		s := NewSession()
		s.advance(here, c.timeline, c.lsn)
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
	" ", "1", "1.", "1.7", "1.7.2", "1.7.2.", "1.7..3", "1..2.3", "1.7.2.3.", "1.7.2.3.u.", "1.7.2.3.U", "1.7.2.3.v", "1.7.2.3.u.u",
	"1.7.2.3.4", "1.7.2.3u", ".1.7.2.3", "0.7.2.3", "2.7.2.3", "01.7.2.3", "v1.7.2.3", "1.7.0.0", "1.0.2.3", "1.07.2.3", "1.7.02.3",
	"1.7.2.03", "1.-7.2.3", "1.7.-2.3", "1.7.+2.3", "1.7.2.0x3", "1.7.2.3_0", "1.7.A.3", "1.7.2.B", "1.B.2.3", "1.7.100000000.3",
	"1.7.2.10000000000000000", "1.10000000000000000.2.3", "1.7.2. 3", "1.7.2.3 ", "1.7.2.3\n", "1.7.2.3\x00", "1.7.2.3,1.7.2.3",
	"1.7.2.g", "1.7.2.3.u.1.7.2.3.u", "1.7.2.٣", "1.2.3", "1.2.3000060.u", "u", ".u", "1.u.u", "1.u.7.2.3", "1.7.2.0/3000060",
	"1.7.2.3.7.2.3", "1.8.2.3.7.2.3", "1.7.2.3.8.2", "1.7.2.3.8.0.0", // one cluster twice, out of order, and so on
	"1.1.2.3.2.2.3.3.2.3.4.2.3.5.2.3.6.2.3.7.2.3.8.2.3.9.2.3",
	strings.Repeat("1", 1<<20), strings.Repeat(".", 1<<20), "1" + strings.Repeat(".1.1.1", 1<<18),
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
	f.Add("1.7.2.3000060.u")
	f.Add("1.7.2.3000060.68c1b3a29f5e0d17.1.a.u")
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
		for range random.IntN(4) {
			s.advance(1+random.Uint64N(4), random.Uint32N(3), providers.LSN(random.Uint64N(4)))
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

// Each cluster has a place of its own. What another one tells of its log does not make
// a read here stale, nor wait.
func TestSessionOfSeveralClusters(t *testing.T) {
	s := NewSession()
	there := providers.Position{System: elsewhere, Timeline: 9, LSN: 1 << 40}
	s.wrote(primaryAt(2, 100), true)
	s.wrote(there, true)
	wantNeeds(t, s, 2, 100, false)
	s.wrote(primaryAt(2, 120), true)
	wantNeeds(t, s, 2, 120, false)
	if token := s.Token(); token != "1.7.2.78.b.9.10000000000" {
		t.Errorf("%q", token)
	}
	if timeline, lsn, unknown := s.needs(elsewhere); timeline != 9 || lsn != 1<<40 || unknown {
		t.Errorf("%d %v %t", timeline, lsn, unknown)
	}
	// Nobody knows which of them a doubt is about, so it ends for each of its own.
	s.Doubt()
	s.resolving().Note(there, true)
	wantNeeds(t, s, 2, 120, true)
	if token := s.Token(); token != "1.7.2.78.b.9.10000000000.u" {
		t.Errorf("%q", token)
	}
	s.resolving().Note(primaryAt(2, 120), true)
	wantNeeds(t, s, 2, 120, false)
	if token := s.Token(); strings.HasSuffix(token, "u") {
		t.Errorf("%q", token)
	}
}

// A cluster that the session has not met while it has met others is read from its
// primary first.
func TestSessionOfAnotherClustersToken(t *testing.T) {
	s := NewSession()
	if err := s.Merge("1.b.9.10000000000"); err != nil {
		t.Fatal(err)
	}
	wantNeeds(t, s, 0, 0, true)
	s.resolving().Note(primaryAt(1, 50), true)
	wantNeeds(t, s, 1, 50, false)
}

// What does not say whose log it is of is in doubt.
func TestPositionOfNoCluster(t *testing.T) {
	for what, note := range map[string]func(s *Session){
		"a write": func(s *Session) { s.wrote(providers.Position{Timeline: 1, LSN: 20}, true) },
		"a read":  func(s *Session) { s.saw(0, 1, providers.Position{Standby: true, LSN: 20}) },
	} {
		s := NewSession()
		s.wrote(primaryAt(1, 10), true)
		if note(s); s.Token() != "1.7.1.a.u" {
			t.Errorf("%s: %q", what, s.Token())
		}
	}
}

// A stranger's tokens do not make a session grow, and what it forgets because of them
// is not read from a replica.
func TestSessionOfManyClusters(t *testing.T) {
	for _, systems := range [][2]uint64{{100, 200}, {1, 5}} { // behind this one, and most of them before it
		s := NewSession()
		s.wrote(primaryAt(1, 10), true)
		for system := systems[0]; system < systems[1]+100; system += 3 {
			if err := s.Merge(fmt.Sprintf("1.%x.1.1", system)); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, unknown := s.needs(here); !unknown {
			t.Error("the place was forgotten without a doubt")
		}
		if token := s.Token(); len(token) > maxToken || NewSession().Merge(token) != nil {
			t.Errorf("%q", token)
		}
		for range 2 { // the first has it forget another one
			s.resolving().Note(primaryAt(1, 20), true)
		}
		wantNeeds(t, s, 1, 20, false)
	}
}

func TestNoSession(t *testing.T) {
	if token := SessionOf(t.Context()).Token(); token != "" {
		t.Errorf("%q", token)
	}
}
