package pgkeel_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/notify"
)

func TestListen(t *testing.T) {
	db := openDB(t, one())
	l, err := db.Listen(t.Context(), notify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Subscribe(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	onEach(t, db, func(t *testing.T, q statements) {
		if err := notify.Notify(t.Context(), q, "a", t.Name()); err != nil {
			t.Error(err)
		}
	})
	for _, from := range []string{"db", "conn"} { // the transaction was rolled back
		if e, err := s.Next(ctx); err != nil || e.Payload != "TestListen/"+from {
			t.Errorf("%+v, %v", e, err)
		}
	}
	err = db.RunTx(t.Context(), func(ctx context.Context, tx pgkeel.Tx) error {
		return notify.Notify(ctx, tx, "a", "committed")
	})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := s.Next(ctx); err != nil || e.Payload != "committed" {
		t.Errorf("%+v, %v", e, err)
	}
	if err := errors.Join(l.Close(ctx), l.Close(ctx)); err != nil {
		t.Error(err)
	}
}

func TestListenEndsWithTheHandle(t *testing.T) {
	db := openDB(t)
	l, err := db.Listen(t.Context(), notify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	eventually(t, "the listener has ended", func() bool {
		_, err := l.Subscribe(ctx, "a")
		return errors.Is(err, notify.ErrClosed) && errors.Is(err, pgkeel.ErrPoolClosed)
	})
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestListenThatCannotWork(t *testing.T) {
	db := openDB(t)
	var fault *pgkeel.ConfigError
	if _, err := db.Listen(t.Context(), notify.Options{RetryMin: -1}); !errors.As(err, &fault) || fault.Field != "notify.Options.RetryMin" {
		t.Errorf("the error is %v", err)
	}
	_, err := db.Listen(t.Context(), notify.Options{DSN: "postgres://u:s3cr3t@127.0.0.1:1/db"})
	if !errors.Is(err, pgkeel.ErrUnreachable) || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("the error is %v", err)
	}
}

func TestListenOfAProviderThatHasNone(t *testing.T) {
	db := openDB(t, pgkeel.WithProvider(register(t, narrow{})))
	_, err := db.Listen(t.Context(), notify.Options{})
	mustSay(t, err, errors.ErrUnsupported, "by this provider", "nothing was sent")
	mustBe(t, err, pgkeel.OutcomeNotSent)
}
