package notify

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgkeel/pgkeel/providers"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	var none *fakePool
	for _, pool := range []providers.Listener{nil, none} {
		if _, err := New(pool, Options{}); err == nil {
			t.Error("a listener without a pool")
		}
	}
	for name, tc := range map[string]struct {
		options Options
		fields  []string
	}{
		"zero": {Options{}, nil},
		"off":  {Options{HeartbeatInterval: providers.Off, SubscribeTimeout: providers.Off}, nil},
		"all": {Options{
			HeartbeatInterval: 1, AnswerTimeout: 1, ConnectTimeout: 1, SubscribeTimeout: 1, RetryMin: 1, RetryMax: 1,
			Queue: Queue{Size: 1, Overflow: Block, BlockFor: 1}, Logger: quiet(),
		}, nil},
		"negative": {
			Options{HeartbeatInterval: -2, AnswerTimeout: -1, ConnectTimeout: -1, SubscribeTimeout: -2, RetryMin: -1, RetryMax: -1},
			[]string{"HeartbeatInterval", "AnswerTimeout", "ConnectTimeout", "SubscribeTimeout", "RetryMin", "RetryMax"},
		},
		"pauses that shrink":         {Options{RetryMin: time.Minute}, []string{"RetryMin"}},
		"queue":                      {Options{Queue: Queue{Size: -1, Overflow: 9, BlockFor: -1}}, []string{"Queue.Size", "Queue.Overflow", "Queue.BlockFor", "Queue.BlockFor"}},
		"a limit that has no effect": {Options{Queue: Queue{Overflow: DropNewest, BlockFor: 1}}, []string{"Queue.BlockFor"}},
		"a limit without any policy": {Options{Queue: Queue{BlockFor: 1}}, []string{"Queue.BlockFor"}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := New(&fakePool{}, tc.options)
			if (err == nil) != (tc.fields == nil) || (l == nil) != (err != nil) {
				t.Fatalf("the error is %v", err)
			}
			var got []string
			if joined, ok := err.(interface{ Unwrap() []error }); ok {
				for _, e := range joined.Unwrap() {
					var fault *providers.ConfigError
					if !errors.As(e, &fault) || strings.Contains(fault.Problem, "%!") {
						t.Errorf("%v", e)
					}
					got = append(got, strings.TrimPrefix(fault.Field, "notify.Options."))
				}
			}
			if !slices.Equal(got, tc.fields) {
				t.Errorf("faults in %q, want %q", got, tc.fields)
			}
			for _, field := range got {
				field, _, _ = strings.Cut(field, ".")
				if _, ok := reflect.TypeFor[Options]().FieldByName(field); !ok {
					t.Errorf("there is no field %s", field)
				}
			}
		})
	}
	l := newListener(t, &fakePool{}, Options{})
	if _, err := l.Subscribe(t.Context(), "a", Queue{Size: -1}); err == nil {
		t.Error("a queue of less than nothing")
	}
	closeListener(t, l)
}
