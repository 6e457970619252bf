package pipeline

import (
	"context"
	"errors"
	"testing"
)

// The last caller on a connection that is to end gives up before its statement was
// sent, while another caller is about to send it: nothing is left that could end the
// connection, or have Close go on.
func TestLastCallerOfARetiredConnectionGivesUp(t *testing.T) {
	e, _ := scriptedEngine(t)
	c := e.write[0].conn.Load()
	c.mu.Lock()
	c.writing = true // somebody is the writer, and between two flushes
	c.mu.Unlock()
	r := requests.Get().(*request)
	r.kind = kindPing
	if !c.submit(r) {
		t.Fatal("it was not taken")
	}
	c.retire()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var notSent *NotSentError
	if err := c.giveUp(ctx, r); !errors.As(err, &notSent) {
		t.Fatal(err)
	}
	c.write()
	<-c.dead
}
