package pipeline

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// scripted is a server that answers each Sync with the next of its answers, right
// or wrong. No real one would.
type scripted struct {
	answers [][]byte   // nil hangs up
	asked   chan int   // the Syncs that came
	heard   chan error // why the engine gave a connection up
	peers   sync.WaitGroup
}

func (s *scripted) dial(ctx context.Context, _ bool) (*Session, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	ours, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	theirs, err := l.Accept()
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	s.peers.Go(func() { s.serve(theirs) })
	return &Session{
		Conn: ours, Types: pgtype.NewMap(), RoundTrip: time.Millisecond,
		Cancel: func(context.Context) error { return nil }, Evicted: func() bool { return false },
		Close: func() { _ = ours.Close() },
	}, nil
}

func (s *scripted) serve(conn net.Conn) {
	defer conn.Close()
	for i, answer := range s.answers {
		if awaitSync(conn) != nil || answer == nil {
			return
		}
		s.asked <- i + 1
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
	_, _ = io.Copy(io.Discard, conn) // until the engine has had enough
}

// awaitSync reads messages up to a Sync.
func awaitSync(conn net.Conn) error {
	header := make([]byte, headerSize)
	for {
		if _, err := io.ReadFull(conn, header); err != nil {
			return err
		}
		body := int64(binary.BigEndian.Uint32(header[1:])) - 4
		if _, err := io.CopyN(io.Discard, conn, body); err != nil {
			return err
		}
		if header[0] == 'S' {
			return nil
		}
	}
}

// scriptedEngine is an engine with one connection to a scripted server.
func scriptedEngine(t *testing.T, answers ...[]byte) (*Engine, *scripted) {
	t.Helper()
	s := &scripted{answers: answers, heard: make(chan error, 1), asked: make(chan int, len(answers))}
	e := New(Options{
		Connections: 1, MaxInFlight: 8, MaxGroup: 8, MaxRequestBytes: 1 << 16, MaxResultBytes: 1 << 16,
		MaxStatements: 8, SlowAfter: time.Minute, MaxLifetime: time.Hour, MaxIdleTime: time.Hour,
		PingAfter: time.Hour, PingTimeout: time.Second,
		Room: func() int { return 0 }, Waited: func() time.Duration { return 0 }, Dial: s.dial,
		Failed: func(err error) { // the first time
			select {
			case s.heard <- err:
			default:
			}
		},
	})
	t.Cleanup(func() {
		e.Close(t.Context())
		s.peers.Wait()
	})
	// The first statement only has it connect.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for e.Stats().Connections == 0 {
		e.pick(t.Context(), false)
		<-tick.C
	}
	return e, s
}

func bytesOf(t *testing.T, messages ...pgproto3.BackendMessage) []byte {
	t.Helper()
	var all []byte
	for _, m := range messages {
		var err error
		if all, err = m.Encode(all); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// A server that breaks the protocol, or something on the way to it, loses its
// connection. What was only described runs elsewhere; what was to be executed may
// have been.
func TestBrokenProtocol(t *testing.T) {
	described := bytesOf(t, &pgproto3.ParseComplete{}, &pgproto3.ParameterDescription{}, &pgproto3.NoData{}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	for name, tc := range map[string]struct {
		answer []byte
		reason string
	}{
		"a session in a transaction": {bytesOf(t, &pgproto3.ReadyForQuery{TxStatus: 'T'}), "transaction state"},
		"ready without a state":      {message(msgReady, nil), "transaction state"},
		"an error that is cut":       {message(msgError, []byte("Mno end")), "EOF"},
		"the end of the session":     {bytesOf(t, &pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P01", Message: "bye"}), "57P01"},
		"a length below nothing":     {[]byte{msgReady, 0, 0, 0, 3}, "message 'Z' of -1 bytes"},
		"a length without bound":     {[]byte{msgCommandComplete, 0x7f, 0xff, 0xff, 0xff}, "more than the"},
		"the end of the connection":  {nil, "EOF"},
		"parameters that are cut":    {message(msgParameters, []byte{0}), "ParameterDescription"},
		"columns that are cut":       {message(msgRowDescription, []byte{0, 9}), "RowDescription"},
	} {
		t.Run(name, func(t *testing.T) {
			e, s := scriptedEngine(t, tc.answer)
			_, err := e.Do(t.Context(), Statement{SQL: "update t set n = 1"})
			if !errors.Is(err, ErrElsewhere) {
				t.Errorf("what was described: %v", err)
			}
			if why := <-s.heard; !strings.Contains(why.Error(), tc.reason) {
				t.Errorf("the reason is %v", why)
			}

			if tc.answer != nil && tc.answer[0] == msgParameters {
				return // not looked at where nothing was asked
			}
			e, s = scriptedEngine(t, described, tc.answer)
			_, err = e.Do(t.Context(), Statement{SQL: "update t set n = 1"})
			var lost *LostError
			if !errors.As(err, &lost) {
				t.Errorf("what was executed: %v", err)
			}
			if why := <-s.heard; !strings.Contains(why.Error(), tc.reason) {
				t.Errorf("the reason is %v", why)
			}
		})
	}
}

// A caller who gives up while the server only looks at the statement hears that
// nothing was sent; once it is to be executed, nobody knows.
func TestGivenUp(t *testing.T) {
	described := bytesOf(t, &pgproto3.ParseComplete{}, &pgproto3.ParameterDescription{}, &pgproto3.NoData{}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	silence := []byte{}
	for name, tc := range map[string]struct {
		answers [][]byte
		notSent bool
	}{
		"while it is described": {[][]byte{silence}, true},
		"while it is executed":  {[][]byte{described, silence}, false},
	} {
		t.Run(name, func(t *testing.T) {
			e, s := scriptedEngine(t, tc.answers...)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				for <-s.asked < len(tc.answers) {
				}
				cancel()
			}()
			_, err := e.Do(ctx, Statement{SQL: "update t set n = 1"})
			var notSent *NotSentError
			if !errors.Is(err, context.Canceled) || errors.As(err, &notSent) != tc.notSent {
				t.Errorf("%v", err)
			}
			e.Evict() // nobody else will end it
		})
	}
}
