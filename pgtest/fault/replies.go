package fault

import "sync"

// replies knows which of the server's messages answer which of the client's. The
// server answers each Query and each Sync with one ReadyForQuery, and before it
// each Execute with one message that ends it.
type replies struct {
	mu sync.Mutex
	// How many were asked for and have come: ReadyForQuery, of which the startup
	// asks for the first, and ends of statements since the last of them.
	asked, come point
	lost        *loss
}

// point is a place in the server's answers.
type point struct{ ready, ends int }

func (p point) before(q point) bool {
	return p.ready < q.ready || p.ready == q.ready && p.ends < q.ends
}

// loss is a reply that shall not arrive.
type loss struct {
	from point
	rule *Rule
	done bool
}

func newReplies() *replies { return &replies{asked: point{ready: 1}} }

// sent notes a message of the client's that is about to go to the server, and
// loses the reply to it if there is a rule.
func (r *replies) sent(kind byte, lose *Rule) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case lose == nil:
	case r.lost == nil:
		r.lost = &loss{from: r.reply(kind), rule: lose}
	default:
		lose.acted() // nothing is heard any more as it is
	}
	switch kind {
	case 'Q', 'S', 'F':
		r.asked = point{ready: r.asked.ready + 1}
	case 'E':
		r.asked.ends++
	}
}

// reply is where the answer to the client's next message begins.
func (r *replies) reply(kind byte) point {
	switch kind {
	case 'p', 'd', 'c', 'f': // a password or COPY's data, in the midst of an answer
		return r.come
	}
	return r.asked
}

// received notes a message of the server's. lost tells that it shall not pass;
// done returns the loss that it completes.
func (r *replies) received(kind byte) (lost bool, done *loss) {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost = r.lost != nil && !r.come.before(r.lost.from)
	switch kind {
	case 'Z':
		r.come = point{ready: r.come.ready + 1}
		if lost {
			done = r.finish()
		}
	case 'C', 'I', 's', 'E':
		r.come.ends++
	}
	return lost, done
}

// over returns the loss that the end of the connection completes.
func (r *replies) over() *loss {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.finish()
}

// finish returns the loss the first time.
func (r *replies) finish() *loss {
	if r.lost == nil || r.lost.done {
		return nil
	}
	r.lost.done = true
	return r.lost
}
