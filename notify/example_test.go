package notify_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/notify"
)

func ExampleListener_All() {
	db, done := exampleDB()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	l, err := db.Listen(ctx, notify.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close(ctx)

	orders, err := l.Subscribe(ctx, "orders")
	if err != nil {
		fmt.Println(err)
		return
	}
	err = db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
		return notify.Notify(ctx, tx, "orders", "order 7 was paid")
	})
	fmt.Println(err)

	for e, err := range orders.All() {
		if err != nil {
			fmt.Println(err)
			return
		}
		switch e.Kind {
		case notify.Message:
			fmt.Println(e.Payload)
			orders.Close() // which ends the loop
		case notify.Gap, notify.Dropped:
			fmt.Println("something is missing here: read the orders anew")
		}
	}
	// Output:
	// <nil>
	// order 7 was paid
}

func ExampleListener_Handle() {
	db, done := exampleDB()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	l, err := db.Listen(ctx, notify.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	handled := make(chan notify.Event)
	_, err = l.Handle(ctx, "orders", func(_ context.Context, e notify.Event) { handled <- e })
	fmt.Println(err)
	fmt.Println(notify.Notify(ctx, db, "orders", "7"))
	fmt.Println((<-handled).Payload)
	fmt.Println(l.Close(ctx))
	// Output:
	// <nil>
	// <nil>
	// 7
	// <nil>
}

func ExampleOutbox() {
	db, done := exampleDB()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	var outbox notify.Outbox
	fmt.Println(outbox.Create(ctx, db))
	for _, text := range []string{"ordered", "paid", "sent"} {
		err := db.RunTx(ctx, func(ctx context.Context, tx pgkeel.Tx) error {
			_, err := outbox.Publish(ctx, tx, "orders", text)
			return err
		})
		if err != nil {
			fmt.Println(err)
		}
	}

	l, err := db.Listen(ctx, notify.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close(ctx)
	var position notify.Position // zero: from the beginning
	for record, err := range outbox.Follow(ctx, db, l, "orders", position) {
		if err != nil {
			fmt.Println(err)
			return
		}
		position = record.Position // store it together with what the record brings about
		fmt.Println(record.Payload)
		if record.Payload == "sent" {
			break
		}
	}
	fmt.Println("the next time it goes on from here:", position != notify.Position{})
	// Output:
	// <nil>
	// ordered
	// paid
	// sent
	// the next time it goes on from here: true
}

// What cannot be sent is refused before anything is.
func ExampleNotify_refused() {
	ctx := context.Background()
	var db *pgkeel.DB // not asked
	err := notify.Notify(ctx, db, "orders", string(make([]byte, 8000)))
	fmt.Println(err)
	fmt.Println(errors.Is(err, notify.ErrInvalidPayload), pgkeel.OutcomeOf(err))
	err = notify.Notify(ctx, db, "", "x")
	fmt.Println(err)
	// Output:
	// pgkeel: invalid payload: it has 8000 bytes, but PostgreSQL takes 7999 at most; write it to a table and send its key, which is what Outbox.Publish does
	// true not sent
	// pgkeel: invalid channel name: it is empty
}

func ExampleDecode() {
	type order struct{ ID int }
	o, err := notify.Decode[order](notify.Event{Channel: "orders", Payload: `{"id": 7}`})
	fmt.Println(o.ID, err)
	_, err = notify.Decode[order](notify.Event{Channel: "orders", Payload: `seven`})
	fmt.Println(err)
	// Output:
	// 7 <nil>
	// pgkeel: a payload on channel "orders" cannot be decoded into a notify_test.order
}

func ExampleQuote() {
	for _, name := range []string{"orders", `say "hello"`, "a\x00b"} {
		fmt.Println(notify.Quote(name))
	}
	// Output:
	// "orders" <nil>
	// "say ""hello""" <nil>
	//  pgkeel: invalid channel name: it contains a NUL byte
}
