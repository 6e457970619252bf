package outcome

import (
	"regexp"
	"testing"
	"time"
)

var version7 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestKeys(t *testing.T) {
	seen := map[string]bool{}
	locks := map[int64]bool{}
	for range 10_000 {
		k := newKey()
		if !version7.MatchString(k.String()) {
			t.Fatal(k)
		}
		seen[k.String()], locks[k.lock()] = true, true
	}
	if len(seen) != 10_000 || len(locks) != 10_000 {
		t.Errorf("%d keys, %d locks", len(seen), len(locks))
	}
}

func TestKeysAreInTheOrderOfTime(t *testing.T) {
	first := newKey()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	<-tick.C
	if second := newKey(); first.String() >= second.String() {
		t.Errorf("%s, then %s", first, second)
	}
	if got := (key{0x01, 0x23, 15: 0xff}).String(); got != "01230000-0000-0000-0000-0000000000ff" {
		t.Error(got)
	}
}
