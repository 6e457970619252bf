package providers_test

import (
	"testing"

	"github.com/pgkeel/pgkeel/providers"
)

func TestLSN(t *testing.T) {
	for text, want := range map[string]providers.LSN{
		"0/0": 0, "0/3000060": 0x3000060, "16/b374d848": 0x16_B374D848, "FFFFFFFF/FFFFFFFF": 1<<64 - 1,
	} {
		got, err := providers.ParseLSN(text)
		if err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	if got := providers.LSN(0x16_B374D848).String(); got != "16/B374D848" {
		t.Error(got)
	}
	for _, text := range []string{"", "/", "0", "0/", "/0", "0/0 ", "0/0x", " 0/0", "0/-1", "-1/0", "123456789/0", "0/123456789", "0/0/0", "x/y"} {
		if got, err := providers.ParseLSN(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestCausalityOf(t *testing.T) {
	if providers.CausalityOf(t.Context()) != nil {
		t.Error("out of nothing")
	}
	c := &providers.Causality{After: 7}
	if got := providers.CausalityOf(providers.WithCausality(t.Context(), c)); got != c {
		t.Error(got)
	}
}
