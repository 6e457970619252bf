package cluster

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func TestOptionsAreChecked(t *testing.T) {
	d := &found{}
	for name, tc := range map[string]struct {
		opts Options
		want string
	}{
		"nothing": {},
		"all": {Options{
			Heartbeat: 10 * time.Millisecond, ProbeTimeout: 1, MaxLag: 20 * time.Millisecond, Fallback: FallbackError,
			CausalWait: providers.Off, Strategy: Random(), Discovery: d, DiscoverEvery: 1,
		}, ""},
		"heartbeat":         {Options{Heartbeat: time.Millisecond}, "Heartbeat"},
		"negative":          {Options{Heartbeat: -1}, "Heartbeat"},
		"probe":             {Options{ProbeTimeout: -1}, "ProbeTimeout"},
		"lag":               {Options{MaxLag: -1}, "MaxLag"},
		"lag under 2 beats": {Options{MaxLag: 1999 * time.Millisecond}, "MaxLag"},
		"fallback":          {Options{Fallback: 2}, "Fallback"},
		"causal wait":       {Options{CausalWait: -2}, "CausalWait"},
		"every":             {Options{Discovery: d, DiscoverEvery: -1}, "DiscoverEvery"},
		"no discovery":      {Options{DiscoverEvery: 1}, "DiscoverEvery"},
		"no host":           {Options{Discovery: Static()}, "Discovery"},
		"strategy":          {Options{Strategy: NearestZone("", RoundRobin())}, "Strategy"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.opts.Validate()
			var fault *providers.ConfigError
			if tc.want == "" && err != nil || tc.want != "" && (!errors.As(err, &fault) || fault.Field != "Cluster."+tc.want) {
				t.Errorf("%v, want a fault of %q", err, tc.want)
			}
		})
	}
	err := Options{Heartbeat: -1, MaxLag: -1, Fallback: 9}.Validate()
	for _, field := range []string{"Heartbeat", "MaxLag", "Fallback"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not in: %v", field, err)
		}
	}
	for f, want := range map[Fallback]string{FallbackPrimary: "primary", FallbackError: "error", 7: "invalid"} {
		if f.String() != want {
			t.Error(f)
		}
	}
}
