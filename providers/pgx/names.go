package pgx

import (
	"sync"
	"sync/atomic"
)

// statementNames are those that the application has prepared statements under, on
// whatever connection. The driver runs a statement by its name; whoever sends one
// past the driver must know that the text is no SQL.
type statementNames struct {
	known sync.Map
	count atomic.Int32
}

// namesBound is how many names are remembered. An application that makes up new
// ones all the time does not use them in this way.
const namesBound = 2048

func (n *statementNames) add(name string) {
	if n.count.Load() >= namesBound {
		return
	}
	if _, again := n.known.LoadOrStore(name, nil); !again {
		n.count.Add(1)
	}
}

func (n *statementNames) has(sql string) bool {
	if n.count.Load() == 0 {
		return false // as next to always
	}
	_, ok := n.known.Load(sql)
	return ok
}
