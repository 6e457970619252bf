package pgtest

import (
	"strings"
	"testing"
)

func TestOptionsReportsEveryFaultAtOnce(t *testing.T) {
	_, err := Start(t.Context(), Options{
		Standbys: -1, SynchronousStandbys: -2, Password: "a\nb",
		Settings: map[string]string{"Port": "1", "work_mem; x": "1", "work_mem": "1\n"},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"Options.Standbys: -1", "Options.SynchronousStandbys: -2", "Options.Password",
		"Port is set by the kit", `"work_mem; x" is not the name`, "the value of work_mem",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

func TestOptionsRefusesMoreSynchronousStandbysThanThereAre(t *testing.T) {
	err := Options{Standbys: 1, SynchronousStandbys: 2}.validate()
	if err == nil || !strings.Contains(err.Error(), "no commit would ever return") {
		t.Errorf("got %v", err)
	}
}

func TestConfigurationOverridesAndQuotes(t *testing.T) {
	got := Options{Settings: map[string]string{"FSYNC": "on", "app.name": `it's a \`}}.configuration()
	for _, want := range []string{"fsync = 'on'\n", `app.name = 'it''s a \\'` + "\n", "max_connections = '200'\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
}
