package bench

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel"
)

func TestEveryPromiseOfPipeliningHasItsScenario(t *testing.T) {
	for name, want := range map[string]struct {
		callers int
		bar     Bar
	}{
		"pipeline.rtt2ms":    {128, Bar{Throughput: 20}},
		"pipeline.rtt2ms.64": {128, Bar{Throughput: 4}},
		"pipeline.read128":   {128, Bar{Throughput: 4, CPU: 1.0 / 3}},
		"pipeline.read32":    {32, Bar{Throughput: 2}},
		"pipeline.sync128":   {128, Bar{Throughput: 1.5}},
		"pipeline.one":       {1, Bar{Throughput: 0.95}},
		"pipeline.slow":      {8, Bar{P99: 1.5}},
	} {
		found, err := selected(Scenarios(), "^"+name+"$")
		if err != nil {
			t.Error(err)
			continue
		}
		if sc := found[0]; sc.Bar != want.bar || meterOf(settings{callers: 3}, sc).callers != want.callers {
			t.Errorf("%s: %+v by %d callers", name, sc.Bar, sc.Callers)
		}
	}
}

func TestARowThatIsAnothersIsFoundOut(t *testing.T) {
	right := item{ID: 42, Name: "item 42", Price: 0.42}
	if err := right.mustBe(42); err != nil {
		t.Error(err)
	}
	for _, wrong := range []item{
		{ID: 43, Name: "item 43", Price: 0.43},
		{ID: 43, Name: "item 42", Price: 0.42},
		{ID: 42, Name: "item 43", Price: 0.42},
		{ID: 42, Name: "item", Price: 0.42},
		{ID: 42, Name: "42", Price: 0.42},
		{ID: 42, Name: "item 42", Price: 0.43},
		{},
	} {
		if err := wrong.mustBe(42); err == nil || !strings.Contains(err.Error(), "42") {
			t.Errorf("%+v passed: %v", wrong, err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = right.mustBe(42) }); n > 0 {
		t.Errorf("the check itself allocates %v times", n)
	}
}

func TestOneIn20IsSlowForEveryCallerAndNotAllAtOnce(t *testing.T) {
	together := map[int]int{}
	for caller := range slowCallers {
		slow := 0
		for n := range 20 * slowEvery {
			if isSlow(caller, n) {
				slow++
				together[n]++
			}
		}
		if slow != 20 {
			t.Errorf("caller %d has %d slow ones", caller, slow)
		}
	}
	for n, callers := range together {
		if callers > 1 {
			t.Errorf("%d callers at %d", callers, n)
		}
	}
}

func TestANoteOfNothingIsStillOne(t *testing.T) {
	if note := noteOf(pgkeel.PoolStats{Pipeline: &pgkeel.PipelineStats{}}); strings.Contains(note, "NaN") || strings.Contains(note, "Inf") {
		t.Error(note)
	}
	note := noteOf(pgkeel.PoolStats{MaxSize: 4, Acquires: 5, Pipeline: &pgkeel.PipelineStats{
		Connections: 2, Statements: 100, Segments: 40, Flushes: 20, Moved: 3, Full: 2,
	}})
	want := "2 shared connections: 100 statements, 2.5 to a Sync, 5.0 to a flush; 5 on its pool of 4 (2 full, 0 slow, 3 moved)"
	if !strings.HasSuffix(note, want) {
		t.Error(fmt.Sprintf("%q instead of", note), want)
	}
}
