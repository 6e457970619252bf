package tenancy

import (
	"fmt"
	"slices"
	"testing"
)

func TestUsageFindsTheBusiest(t *testing.T) {
	u := NewUsage(3)
	var total int64
	for round := range 1000 {
		for _, id := range []string{"big", "big", "big", "large", "large", fmt.Sprint("small ", round)} {
			u.count(id)
			total++
		}
		if n := len(u.counts); n > 6 {
			t.Fatalf("%d are counted", n)
		}
	}
	top, others := u.Top()
	if len(top) != 3 || !slices.Equal(top[:2], []TenantCount{{"big", 3000}, {"large", 2000}}) {
		t.Errorf("%+v", top)
	}
	for _, c := range top {
		others += c.Operations
	}
	if others != total {
		t.Errorf("%d of %d are told", others, total)
	}
}

func TestUsageOfNobody(t *testing.T) {
	u := NewUsage(-1)
	if top, others := u.Top(); len(top) != 0 || others != 0 {
		t.Errorf("%+v %d", top, others)
	}
	u.count("b")
	u.count("a")
	if top, others := u.Top(); !slices.Equal(top, []TenantCount{{"a", 1}}) || others != 1 {
		t.Errorf("%+v %d", top, others)
	}
}
