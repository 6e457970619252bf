package demo

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// report is what the demo prints, as it goes along. It belongs to one goroutine
// at a time.
type report struct {
	w     io.Writer
	paint painter
	// live says that somebody watches, so that a line may change.
	live bool

	current string // the section
	checks  []check
	err     error // the first of writing
}

// check is something that must hold.
type check struct {
	section string
	text    string
	ok      bool
}

// painter colours text, if it is on.
type painter bool

func (p painter) with(code, s string) string {
	if !p || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p painter) bold(s string) string  { return p.with("1", s) }
func (p painter) faint(s string) string { return p.with("2", s) }
func (p painter) green(s string) string { return p.with("32", s) }
func (p painter) red(s string) string   { return p.with("31", s) }

func (r *report) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(r.w, format, args...); err != nil && r.err == nil {
		r.err = fmt.Errorf("writing the report: %w", err)
	}
}

// title prints the first line.
func (r *report) title(s string) { r.printf("%s\n\n", r.paint.bold(s)) }

// section begins a section.
func (r *report) section(name string) {
	r.current = name
	r.printf("\n%s\n", r.paint.bold(name))
}

// line prints a line of the section.
func (r *report) line(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if text == "" {
		r.printf("\n")
		return
	}
	r.printf("  %s\n", text)
}

const (
	quoteIndent = "      "
	quoteWidth  = 90
)

// quote prints what pgkeel says, an error mostly, in lines that are not too
// long.
func (r *report) quote(format string, args ...any) {
	for _, line := range wrap(fmt.Sprintf(format, args...), quoteWidth) {
		r.printf("%s%s\n", quoteIndent, r.paint.faint(line))
	}
}

// wrap breaks a text into lines at its spaces.
func wrap(text string, columns int) []string {
	var lines []string
	var line string
	for _, word := range strings.Fields(text) {
		if line != "" && width(line)+1+width(word) > columns {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// check notes and prints something that must hold.
func (r *report) check(ok bool, format string, args ...any) {
	c := check{r.current, fmt.Sprintf(format, args...), ok}
	r.checks = append(r.checks, c)
	r.printf("  %s %s\n", r.mark(ok), c.text)
}

func (r *report) mark(ok bool) string {
	if ok {
		return r.paint.green("✓")
	}
	return r.paint.red("✗")
}

// table prints rows in columns under a header: the first flush left, numbers
// flush right.
func (r *report) table(header []string, rows [][]string) {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], width(cell))
		}
	}
	r.printf("  %s\n", r.paint.faint(aligned(header, widths)))
	for _, row := range rows {
		r.printf("  %s\n", aligned(row, widths))
	}
}

const columnGap = "  "

func aligned(row []string, widths []int) string {
	var b strings.Builder
	for i, cell := range row {
		padding := strings.Repeat(" ", widths[i]-width(cell))
		if i == 0 {
			b.WriteString(cell + padding)
			continue
		}
		b.WriteString(columnGap + padding + cell)
	}
	return strings.TrimRight(b.String(), " ")
}

// summary prints how many checks held, names those that did not, and whose
// data this was.
func (r *report) summary(took time.Duration) {
	failed := r.failures()
	r.printf("\n")
	if len(failed) == 0 {
		r.printf("%s %s\n", r.mark(true), r.paint.bold(fmt.Sprintf("all %d checks held, in %s", len(r.checks), short(took))))
	} else {
		r.printf("%s %s\n", r.mark(false), r.paint.bold(fmt.Sprintf("%d of %d checks did not hold:", len(failed), len(r.checks))))
		for _, c := range failed {
			r.printf("    %s: %s\n", c.section, c.text)
		}
	}
	r.printf("\n%s\n", r.paint.faint(attribution))
}

func (r *report) failures() []check {
	var failed []check
	for _, c := range r.checks {
		if !c.ok {
			failed = append(failed, c)
		}
	}
	return failed
}

// failed is an error if a check did not hold.
func (r *report) failed() error {
	if n := len(r.failures()); n > 0 {
		return fmt.Errorf("%d of %d checks did not hold", n, len(r.checks))
	}
	if len(r.checks) == 0 {
		return errors.New("nothing was checked")
	}
	return nil
}

// width is how many columns a text takes, one for each of its characters.
func width(s string) int { return utf8.RuneCountInString(s) }

// count prints a whole number with commas between the thousands.
func count[N ~int | ~int32 | ~int64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// short prints a duration with three digits that mean something.
func short(d time.Duration) string {
	switch {
	case d <= 0:
		return "0"
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d)
	case d < time.Millisecond:
		return digits(float64(d)/float64(time.Microsecond)) + " µs"
	case d < time.Second:
		return digits(float64(d)/float64(time.Millisecond)) + " ms"
	default:
		return digits(d.Seconds()) + " s"
	}
}

func digits(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

// plural is a number and what it counts.
func plural[N ~int | ~int32 | ~int64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}
