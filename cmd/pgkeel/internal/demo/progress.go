package demo

import (
	"fmt"
	"strings"
	"time"
)

const (
	barWidth = 32
	// redrawEvery keeps the terminal from being busier than the database.
	redrawEvery = 50 * time.Millisecond
	// barSteps is how many lines there are where nobody watches.
	barSteps = 4
)

// progress is a bar that moves in its line on a terminal, and a few lines
// elsewhere.
type progress struct {
	out   *report
	total int

	done  int
	step  int // of barSteps, the last that was printed
	drawn time.Time
	width int // of what was drawn last
}

// add moves the bar on by one.
func (p *progress) add() { p.to(p.done + 1) }

// to moves the bar to a place.
func (p *progress) to(done int) {
	p.done = done
	if p.out.live {
		if now := time.Now(); now.Sub(p.drawn) >= redrawEvery {
			p.drawn = now
			p.redraw()
		}
		return
	}
	if step := p.done * barSteps / max(p.total, 1); step > p.step {
		p.step = step
		p.out.line("%s", p.text())
	}
}

// finish leaves the bar as it stands and ends its line.
func (p *progress) finish() {
	if p.out.live {
		p.redraw()
		p.out.printf("\n")
	}
}

// redraw writes over the line with nothing but a carriage return, which any
// terminal knows.
func (p *progress) redraw() {
	text := "  " + p.text()
	padding := strings.Repeat(" ", max(p.width-width(text), 0))
	p.width = width(text)
	p.out.printf("\r%s%s", text, padding)
}

func (p *progress) text() string {
	full := p.done * barWidth / max(p.total, 1)
	return fmt.Sprintf("%s%s %3d %%  %s of %s", strings.Repeat("█", full), strings.Repeat("░", max(barWidth-full, 0)),
		p.done*100/max(p.total, 1), count(p.done), count(p.total))
}
