package pipeline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// message frames a body.
func message(kind byte, body []byte) []byte {
	m := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	return append(m, body...)
}

// chunks is a socket that delivers in pieces.
type chunks struct {
	net.Conn
	data  []byte
	piece func() int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(c.data), max(1, c.piece()))
	copy(p, c.data[:n])
	c.data = c.data[n:]
	return n, nil
}

// FuzzInbox cuts any messages, however they arrive, and drops the large rows.
func FuzzInbox(f *testing.F) {
	f.Add(uint64(1), uint16(100), 10)
	f.Add(uint64(2), uint16(1), 3)
	f.Add(uint64(3), uint16(40000), 5)
	f.Fuzz(func(t *testing.T, seed uint64, piece uint16, count int) {
		r := rand.New(rand.NewPCG(seed, 0))
		const limit = 70_000
		var sent [][]byte
		var stream []byte
		for range min(max(count, 0), 50) {
			body := make([]byte, r.IntN(100_000)*r.IntN(2)+r.IntN(50))
			body = append(body, byte(r.Uint32()))
			m := message("DZC"[r.IntN(3)], body)
			sent = append(sent, m)
			stream = append(stream, m...)
		}
		conn := &chunks{data: stream, piece: func() int { return 1 + r.IntN(int(piece)+1) }}
		var in inbox
		wanted := func(size int) bool { return size <= limit }
		for len(sent) > 0 {
			kind, body, ok, err := in.next(wanted)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				if err := in.fill(conn); err != nil {
					t.Fatalf("%d messages are missing: %v", len(sent), err)
				}
				continue
			}
			want := sent[0]
			sent = sent[1:]
			if dropped := want[0] == msgDataRow && len(want)-headerSize > limit; dropped {
				if body != nil || kind != msgDataRow {
					t.Fatal("a large row was kept")
				}
				continue
			}
			if kind != want[0] || !bytes.Equal(body, want[headerSize:]) {
				t.Fatalf("%q with %d bytes instead of %q with %d", kind, len(body), want[0], len(want)-headerSize)
			}
		}
	})
}

func TestInboxRefusesNonsense(t *testing.T) {
	for name, data := range map[string][]byte{
		"negative length": {'C', 0xff, 0xff, 0xff, 0xff},
		"endless message": {'C', 0x7f, 0xff, 0xff, 0xff},
	} {
		in := inbox{}
		if err := in.fill(&chunks{data: data, piece: func() int { return 100 }}); err != nil {
			t.Fatal(err)
		}
		if _, _, ok, err := in.next(func(int) bool { return true }); ok || err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	var in inbox
	if err := in.fill(&chunks{}); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestLimitForIsRoundedUpByAnEighth(t *testing.T) {
	for ms, want := range map[float64]int64{0.1: 1, -5: 1, 1: 1, 15: 15, 17: 18, 100: 104, 4999: 5120, 5000: 5120, 1e15: 2147483647} {
		left := time.Duration(min(ms, 9e12) * 1e6)
		if got := limitFor(left); got != want {
			t.Errorf("%v ms: %d, want %d", ms, got, want)
		}
	}
	if got := limitFor(math.MaxInt64); got != math.MaxInt32 {
		t.Errorf("a deadline without end: %d", got)
	}
}

func TestSlowStatementsAreTriedAgain(t *testing.T) {
	var s statement
	if s.isSlow(time.Millisecond) {
		t.Error("a new statement is slow")
	}
	observe(&s.service, 50*time.Millisecond)
	tries := 0
	for s.isSlow(5 * time.Millisecond) {
		tries++
	}
	if tries < 20 || tries > 500 {
		t.Errorf("tried again after %d uses", tries)
	}
	for range 50 {
		observe(&s.service, time.Millisecond)
	}
	if s.isSlow(2 * time.Millisecond) {
		t.Error("a statement that became fast is slow")
	}
}

func TestHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{began: time.Now()}
		c := &conn{engine: e, session: &Session{}}
		c.service.Store(int64(time.Millisecond))
		held := func() bool { return c.isHeldUp(e.now()) }
		if held() {
			t.Error("an idle connection is held up")
		}
		c.startHead(e.now())
		<-time.After(2 * heldUpAfter)
		if held() {
			t.Error("held up although nobody else got on: the machine may be slow")
		}
		for range heldUpPassed {
			e.Passed()
		}
		if !held() {
			t.Error("others got on, and it is not held up")
		}
		c.startHead(e.now())
		<-time.After(2 * heldUpAlone)
		if !held() {
			t.Error("not held up after a long time")
		}
		c.service.Store(int64(time.Second))
		if held() {
			t.Error("held up although that is usual")
		}
	})
}
