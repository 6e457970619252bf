package batch

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func TestOptionsAreValidated(t *testing.T) {
	for field, o := range map[string]Options{
		"":              {Mode: Grouped, GroupSize: 2, MaxStatements: 1, MaxBytes: 1, StopOnError: true, Tx: providers.TxOptions{Isolation: providers.Serializable}},
		"Mode":          {Mode: 3},
		"GroupSize":     {GroupSize: 5},
		"GroupSize -":   {Mode: Grouped, GroupSize: -1},
		"GroupSize 1":   {Mode: Grouped, GroupSize: 1},
		"MaxStatements": {MaxStatements: -1},
		"MaxBytes":      {MaxBytes: -1},
		"StopOnError":   {StopOnError: true},
		"Tx":            {Mode: Isolated, Tx: providers.TxOptions{Access: providers.ReadOnly}},
		"Tx.Timeout":    {Tx: providers.TxOptions{Timeout: time.Second}},
		"Tx again":      {Tx: providers.TxOptions{MaxAttempts: 2}},
		"TxOptions":     {Tx: providers.TxOptions{Isolation: "loose"}},
	} {
		err := o.validate()
		var fault *providers.ConfigError
		if (field == "") != (err == nil) || err != nil && !errors.As(err, &fault) {
			t.Errorf("%s: %v", field, err)
		}
		if name, _, _ := strings.Cut(field, " "); fault != nil && !strings.Contains(fault.Field, name) {
			t.Errorf("%s: %v", field, fault)
		}
	}
	all := Options{Mode: 9, GroupSize: -1, MaxStatements: -1, MaxBytes: -1}.validate()
	if n := len(all.(interface{ Unwrap() []error }).Unwrap()); n != 5 {
		t.Errorf("%d faults: %v", n, all)
	}
}

func TestOptionsHaveDefaults(t *testing.T) {
	for mode, want := range map[Mode]int{Atomic: 0, Isolated: 1, Grouped: DefaultGroupSize} {
		call := Options{Mode: mode}.call()
		if call.Group != want || call.MaxStatements != DefaultMaxStatements || call.MaxBytes != DefaultMaxBytes {
			t.Errorf("%s: %+v", mode, call)
		}
	}
	call := Options{Mode: Grouped, GroupSize: 7, MaxStatements: 8, MaxBytes: 9, StopOnError: true}.call()
	if call.Group != 7 || call.MaxStatements != 8 || call.MaxBytes != 9 || !call.StopOnError {
		t.Errorf("%+v", call)
	}
}

func TestModesHaveNames(t *testing.T) {
	for mode, want := range map[Mode]string{Atomic: "atomic", Isolated: "isolated", Grouped: "grouped", 9: "invalid"} {
		if got := mode.String(); got != want {
			t.Errorf("%d: %s", mode, got)
		}
	}
}
