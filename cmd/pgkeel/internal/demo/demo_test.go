package demo

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgkeel/pgkeel"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	known := []time.Duration{15, 20, 35, 40, 50}
	for p, want := range map[int]time.Duration{0: 15, 5: 15, 20: 15, 21: 20, 30: 20, 40: 20, 50: 35, 95: 50, 99: 50, 100: 50} {
		if got := percentile(known, p); got != want {
			t.Errorf("the %dth percentile is %d instead of %d", p, got, want)
		}
	}
	var twenty []time.Duration
	for i := range 20 {
		twenty = append(twenty, time.Duration(i+1))
	}
	if got := percentile(twenty, 95); got != 19 {
		t.Errorf("the 95th of twenty is number %d", got)
	}
	if percentile(nil, 50) != 0 || percentile([]time.Duration{7}, 1) != 7 {
		t.Error("of none or one")
	}
}

func TestRateNeedsTime(t *testing.T) {
	if (series{took: make([]time.Duration, 3)}).rate() != 0 {
		t.Error("a rate over no time")
	}
}

func TestProgressOnATerminalStaysInItsLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		bar := &progress{out: &report{w: &b, live: true}, total: 1000}
		for range 1000 {
			<-time.After(time.Millisecond) // of the fake clock
			bar.add()
		}
		bar.finish()
		drawn := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\r")
		if strings.Count(b.String(), "\n") != 1 || len(drawn) < 15 || len(drawn) > 25 {
			t.Errorf("drawn %d times: %q", len(drawn), b.String())
		}
		if last := drawn[len(drawn)-1]; last != "  "+strings.Repeat("█", barWidth)+" 100 %  1,000 of 1,000" {
			t.Errorf("at last %q", last)
		}
		for i := 2; i < len(drawn); i++ {
			if width(drawn[i]) < width(drawn[i-1]) {
				t.Errorf("%q leaves something of %q", drawn[i], drawn[i-1])
			}
		}
	})
}

func TestProgressElsewhereIsAFewLines(t *testing.T) {
	var b bytes.Buffer
	bar := &progress{out: &report{w: &b}, total: 1000}
	for range 1000 {
		bar.add()
	}
	bar.finish()
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != barSteps || strings.Contains(b.String(), "\r") || !strings.Contains(lines[0], " 25 %  250 of 1,000") {
		t.Errorf("%q", lines)
	}
}

func TestAnInterruptedProgressEndsItsLine(t *testing.T) {
	var b bytes.Buffer
	bar := &progress{out: &report{w: &b, live: true}, total: 4}
	bar.add()
	bar.finish()
	if !strings.HasSuffix(b.String(), " 25 %  1 of 4\n") {
		t.Errorf("%q", b.String())
	}
}

func TestFlags(t *testing.T) {
	s, err := parse([]string{"-duration", "2s", "-color", "always"}, io.Discard)
	if err != nil || s.duration != 2*time.Second || !s.wantsColor(false) {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range [][]string{
		{"-duration", "1ns"}, {"-duration", "1h"}, {"-color", "blue"}, {"-nonsense"}, {"postgres://somewhere"},
	} {
		if _, err := parse(bad, io.Discard); err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(bad[0], "-")) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	_, err = parse([]string{"-duration", "0s", "-color", "x"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "-duration") || !strings.Contains(err.Error(), "-color") {
		t.Errorf("not every fault at once: %v", err)
	}
}

func TestHelpIsPrintedAndNoError(t *testing.T) {
	var b bytes.Buffer
	if err := Run(t.Context(), []string{"-h"}, &b, io.Discard); err != nil || !strings.Contains(b.String(), "-duration") {
		t.Errorf("%v: %s", err, &b)
	}
	if _, err := parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
	if err := Run(t.Context(), []string{"-x"}, io.Discard, io.Discard); err == nil {
		t.Error("no error")
	}
}

func TestAutomaticColourIsForTerminals(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	s := settings{color: "auto"}
	if !s.wantsColor(true) || s.wantsColor(false) {
		t.Error("not by the terminal")
	}
	t.Setenv("TERM", "dumb")
	if s.wantsColor(true) {
		t.Error("on a dumb terminal")
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	if s.wantsColor(true) {
		t.Error("against NO_COLOR")
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(file) || isTerminal(&bytes.Buffer{}) {
		t.Error("a file or a buffer is no terminal")
	}
}

func TestTheDataSet(t *testing.T) {
	places, err := readPlaces(citiesCSV)
	if err != nil || len(places) < 100_000 {
		t.Fatalf("%d places, %v", len(places), err)
	}
	first := place{ID: 1, Name: "Vila", Country: "AD", Admin1: "03", Lat: 42.53176, Lng: 1.56654}
	if places[0] != first || places[len(places)-1].ID != int32(len(places)) {
		t.Errorf("the first is %+v", places[0])
	}
	k := learn(places)
	n := 0
	for _, of := range k.regions {
		n += of
	}
	if n != len(places) || len(k.codes) != len(k.countries) || len(k.areas) != len(k.regions) {
		t.Errorf("%d places in %d regions", n, len(k.areas))
	}
}

func TestADamagedDataSetIsAnError(t *testing.T) {
	pack := func(text string) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	const header = "name,country,admin1,admin2,lat,lng\n"
	for name, data := range map[string][]byte{
		"no gzip":     []byte("nothing"),
		"empty":       pack(""),
		"cut":         citiesCSV[:1000],
		"few fields":  pack("name\nVila\n"),
		"more fields": pack(header + "a,b,c,d,1\n"),
		"no number":   pack(header + "a,b,c,d,north,2\n"),
	} {
		if _, err := readPlaces(data); err == nil || !strings.Contains(err.Error(), "the data set") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTogetherReturnsTheFirstError(t *testing.T) {
	first := errors.New("first")
	err := together(t.Context(), 3, func(ctx context.Context, i int) error {
		if i == 1 {
			return first
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, first) {
		t.Error(err)
	}
	if err := together(t.Context(), 3, func(context.Context, int) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		took, err := until(t.Context(), time.Second, func(context.Context) (bool, error) { n++; return n == 5, nil })
		if err != nil || took != 4*pollEvery {
			t.Errorf("%v, %v", took, err)
		}
		took, err = until(t.Context(), time.Second, func(context.Context) (bool, error) { return false, nil })
		if !errors.Is(err, errNotYet) || took != time.Second {
			t.Errorf("%v, %v", took, err)
		}
		if _, err := until(t.Context(), time.Second, func(context.Context) (bool, error) { return false, io.EOF }); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

func TestWhatCallersSawIsCounted(t *testing.T) {
	var saw seen
	saw.add(io.ErrUnexpectedEOF)
	saw.add(io.ErrUnexpectedEOF)
	if saw.failed != 2 || saw.errors["unexpected EOF · outcome unknown"] != 2 {
		t.Errorf("%+v", saw.errors)
	}
	if !isLoss(&net.OpError{Op: "read", Err: syscall.ECONNRESET}) || isLoss(errNotYet) || isLoss(nil) {
		t.Error("isLoss")
	}
}

func TestATransferThatFailsOtherwiseIsAnError(t *testing.T) {
	var m moved
	if err := m.count(io.EOF, false); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if err := m.count(nil, true); err != nil || m.done.Load() != 1 {
		t.Error(err)
	}
}

func TestAMeetingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newMeeting(2).arrive(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAnswersAreCompared(t *testing.T) {
	if err := sameCount(nil, 1, 2); !errors.Is(err, errDifferent) {
		t.Error(err)
	}
	if err := sameCount(io.EOF, 1, 2); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if limitOf(nil) != "" || limitOf(&pgkeel.TimeoutError{Limit: "x"}) != ": x" {
		t.Error("limitOf")
	}
}

func TestAFolderThatIsThereIsNotGone(t *testing.T) {
	dir := t.TempDir()
	if gone(dir) == nil || gone(filepath.Join(dir, "none")) != nil {
		t.Error("gone")
	}
	if _, err := withApplication("postgres://[", "", "x"); err == nil {
		t.Error("no error")
	}
}
