package bench

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

func TestFlagsHaveDefaultsAndSelectEverything(t *testing.T) {
	s, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.rounds != defaultRounds || s.duration != defaultDuration || s.callers != defaultCallers || s.json || s.dsn != "" {
		t.Errorf("defaults: %+v", s)
	}
	if len(s.scenarios) != len(Scenarios())-len(onlyOnRequest) {
		t.Errorf("%d scenarios of %d", len(s.scenarios), len(Scenarios())-len(onlyOnRequest))
	}
}

func TestFlagsAreRead(t *testing.T) {
	s, err := parse([]string{"-dsn", "host=h", "-only", "^tx$", "-json", "-rounds", "3", "-duration", "5ms", "-callers", "2"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.dsn != "host=h" || !s.json || s.rounds != 3 || s.duration != 5*time.Millisecond || s.callers != 2 {
		t.Errorf("%+v", s)
	}
	if len(s.scenarios) != 1 || s.scenarios[0].Name != "tx" {
		t.Errorf("-only ^tx$ selected %d scenarios", len(s.scenarios))
	}
}

func TestBadFlagsAreErrorsWithTheReason(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"-rounds", "0"}, []string{"-rounds 0", "at least 1"}},
		{[]string{"-rounds", "-3"}, []string{"-rounds -3"}},
		{[]string{"-rounds", "many"}, []string{"many", "-rounds", "-h"}},
		{[]string{"-duration", "0s"}, []string{"-duration 0s"}},
		{[]string{"-duration", "-1s"}, []string{"-duration -1s"}},
		{[]string{"-callers", "0"}, []string{"-callers 0"}},
		{[]string{"-callers", "1001"}, []string{"-callers 1001", "1000"}},
		{[]string{"-only", "("}, []string{"-only", "missing closing )"}},
		{[]string{"-only", "nosuch"}, []string{`"nosuch"`, "queryrow, queryrow.par", "copy"}},
		{[]string{"-rounds", "0", "-duration", "0s", "-only", "nosuch"}, []string{"-rounds", "-duration", "-only"}},
		{[]string{"-unknown"}, []string{"-unknown", "-h"}},
		{[]string{"extra"}, []string{`"extra"`, "-dsn"}},
	} {
		_, err := parse(tc.args, io.Discard)
		if err == nil {
			t.Errorf("%v: no error", tc.args)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %q lacks %q", tc.args, err, want)
			}
		}
	}
}

func TestHelpListsFlagsAndScenariosAndIsNoError(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), []string{"-h"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	want := []string{"-dsn", "-only", "-json", "-rounds", "-duration", "-callers"}
	for _, sc := range Scenarios() {
		want = append(want, sc.Name+" ", sc.About)
	}
	for _, w := range want {
		if !strings.Contains(out.String(), w) {
			t.Errorf("the help lacks %q", w)
		}
	}
}

func TestNoErrorShowsAPassword(t *testing.T) {
	const secret = "hunter2"
	for name, args := range map[string][]string{
		"unreachable":         {"-dsn", "postgres://u:" + secret + "@127.0.0.1:1/db"},
		"unreachable, words":  {"-dsn", "host=127.0.0.1 port=1 user=u password=" + secret},
		"unreadable":          {"-dsn", "postgres://u:" + secret + "@127.0.0.1:port/db"},
		"unreadable, words":   {"-dsn", "host=127.0.0.1 password=" + secret + " sslmode=nonsense"},
		"unreadable pool":     {"-dsn", "host=127.0.0.1 password=" + secret + " pool_max_conns=nonsense"},
		"behind another flag": {"-rounds", "postgres://u:" + secret + "@127.0.0.1:1/db"},
		"without a flag":      {"postgres://u:" + secret + "@127.0.0.1:1/db"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			err := Run(t.Context(), args, &stdout, &stderr)
			if err == nil {
				t.Fatal("no error")
			}
			if all := err.Error() + stdout.String() + stderr.String(); strings.Contains(all, secret) {
				t.Errorf("the password is in %s", all)
			}
		})
	}
}

func TestScenarioNamesAreUniqueAndNeverEndLikeAMetric(t *testing.T) {
	seen := map[string]bool{}
	for _, sc := range Scenarios() {
		if seen[sc.Name] || sc.About == "" || sc.Ours == nil || sc.Baseline == nil {
			t.Errorf("%q is twice there or incomplete", sc.Name)
		}
		seen[sc.Name] = true
		for _, q := range quantities {
			if q.suffix != "" && strings.HasSuffix(sc.Name, q.suffix) {
				t.Errorf("%q would be mistaken for a metric", sc.Name)
			}
		}
	}
}
