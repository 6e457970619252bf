package pgx

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pgkeel/pgkeel/providers/internal/sqltext"
)

// classifier remembers what statements may do. A lookup takes no lock and allocates
// nothing, since every statement makes one; learning copies the map. It forgets
// nothing, so it stops learning at a bound: an application that builds ever new
// statements pays for a scan of each.
type classifier struct {
	known atomic.Pointer[map[string]sqltext.Effects]
	learn sync.Mutex
}

const classifierBound = 2048

func (c *classifier) classify(sql string) sqltext.Effects {
	if known := c.known.Load(); known != nil {
		if e, ok := (*known)[sql]; ok {
			return e
		}
	}
	e := sqltext.Classify(sql)
	c.remember(sql, e)
	return e
}

func (c *classifier) remember(sql string, e sqltext.Effects) {
	c.learn.Lock()
	defer c.learn.Unlock()
	var learned map[string]sqltext.Effects
	if known := c.known.Load(); known != nil {
		if len(*known) >= classifierBound {
			return
		}
		learned = maps.Clone(*known)
	} else {
		learned = map[string]sqltext.Effects{}
	}
	learned[strings.Clone(sql)] |= e // a name can stand for several statements
	c.known.Store(&learned)
}

// told is what a statement was told to be, by what was known then.
type told struct {
	known   *map[string]sqltext.Effects
	sql     string
	effects sqltext.Effects
}

// classify is that of the classifier, which it spares to ask again for what the
// session ran last.
func (s *session) classify(sql string) sqltext.Effects {
	c := &s.pool.classifier
	known := c.known.Load() // before: what is learned from then on counts
	if s.told.known != known || known == nil || s.told.sql != sql {
		s.told = told{known: known, sql: sql, effects: c.classify(sql)}
	}
	return s.told.effects
}
