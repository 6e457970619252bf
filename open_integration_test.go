package pgkeel_test

import (
	"context"
	"fmt"
	"net/url"
	"testing"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/pgtest"
)

func TestDSNs(t *testing.T) {
	dsn := pgtest.NewDB(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	database := u.Path[1:]
	password, _ := u.User.Password()
	environment := map[string]string{
		"PGHOST": u.Hostname(), "PGPORT": u.Port(), "PGUSER": u.User.Username(), "PGPASSWORD": password,
		"PGDATABASE": database, "PGSSLMODE": "disable", "PGAPPNAME": "from the environment",
	}
	words := fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable application_name='in words'",
		u.Hostname(), u.Port(), u.User.Username(), database)
	if password != "" {
		words += " password=" + password
	}
	for name, tc := range map[string]struct {
		dsn  string
		env  map[string]string
		name string
	}{
		"a URL":                            {withParam(u, "application_name", "a_URL"), nil, "a_URL"},
		"words and values":                 {words, nil, "in words"},
		"the environment":                  {"", environment, "from the environment"},
		"what it leaves out, in words":     {"application_name=mine", environment, "mine"},
		"what it leaves out, in a URL":     {"postgres://?application_name=mine", environment, "mine"},
		"what it says, before environment": {words, map[string]string{"PGHOST": "nowhere.invalid"}, "in words"},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range tc.env {
				t.Setenv(key, value)
			}
			db := openDSN(t, tc.dsn)
			got := value[[]string](t, db, "select array[current_database()::text, current_setting('application_name')]")
			if got[0] != database || got[1] != tc.name {
				t.Error(got)
			}
		})
	}
}

func withParam(u *url.URL, key, value string) string {
	changed := *u
	q := changed.Query()
	q.Set(key, value)
	changed.RawQuery = q.Encode()
	return changed.String()
}

func TestOpenWarmsUp(t *testing.T) {
	dsn := pgtest.NewDB(t)
	db := openDSN(t, dsn, pgkeel.WithPool(pgkeel.PoolStrategy{MaxSize: 5, InitialSize: 3}))
	if s := db.Stats(); s.Open != 3 || s.Idle != 3 || s.MaxSize != 5 || s.Acquires != 0 {
		t.Errorf("%+v", s)
	}
	if s := openDSN(t, dsn).Stats(); s.Open != 0 || s.Connects != 0 {
		t.Errorf("it connected before it was asked: %+v", s)
	}
	_, err := pgkeel.Open(t.Context(), dsn, pgkeel.WithPool(pgkeel.PoolStrategy{InitialSize: 3, WarmupQueries: []string{"select 1", "select 1/0"}}))
	mustSay(t, err, pgkeel.ErrUnreachable, "warm-up query 1", "division by zero")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = pgkeel.Open(over, dsn, one())
	mustSay(t, err, context.Canceled)
}
