package notify

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgkeel/pgkeel/providers"
)

// execs records what is executed.
type execs struct {
	providers.Querier
	sql  []string
	args [][]any
	err  error
}

func (e *execs) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	e.sql, e.args = append(e.sql, sql), append(e.args, args)
	return pgconn.CommandTag{}, e.err
}

// Channel names are identifiers and payloads have a limit; what breaks them is
// refused before anything is sent, and says what to do.
func TestTrap44NamesAndPayloadsAreCheckedBeforeSending(t *testing.T) {
	for name, tc := range map[string]struct {
		channel, payload string
		state            error
		fix              string
	}{
		"plain":             {"orders", "1", nil, ""},
		"no payload":        {"orders", "", nil, ""},
		"longest name":      {strings.Repeat("é", 31) + "x", "1", nil, ""},
		"name too long":     {strings.Repeat("é", 32), "1", ErrInvalidChannel, "shorter"},
		"huge name":         {strings.Repeat("x", 1<<20), "1", ErrInvalidChannel, "shorter"},
		"no name":           {"", "1", ErrInvalidChannel, "empty"},
		"NUL in the name":   {"a\x00b", "1", ErrInvalidChannel, "NUL"},
		"name not UTF-8":    {"a\xff", "1", ErrInvalidChannel, "UTF-8"},
		"anything else":     {`a"; drop table users; --`, "1", nil, ""},
		"longest payload":   {"a", strings.Repeat("x", 7999), nil, ""},
		"payload too long":  {"a", strings.Repeat("x", 8000), ErrInvalidPayload, "Outbox.Publish"},
		"letters, not few":  {"a", strings.Repeat("é", 4000), ErrInvalidPayload, "8000 bytes"},
		"huge payload":      {"a", strings.Repeat("x", 1<<24), ErrInvalidPayload, "Outbox.Publish"},
		"NUL in payload":    {"a", "x\x00", ErrInvalidPayload, "base64"},
		"payload not UTF-8": {"a", "\xc3", ErrInvalidPayload, "base64"},
	} {
		t.Run(name, func(t *testing.T) {
			q := &execs{}
			err := Notify(t.Context(), q, tc.channel, tc.payload)
			if !errors.Is(err, tc.state) || (err != nil && !strings.Contains(err.Error(), tc.fix)) {
				t.Errorf("the error is %v", err)
			}
			if sent := len(q.sql) == 1; sent != (tc.state == nil) {
				t.Errorf("sent %v", q.sql)
			}
			if tc.state != nil && (providers.OutcomeOf(err) != providers.OutcomeNotSent || len(err.Error()) > 250) {
				t.Errorf("%s: %v", providers.OutcomeOf(err), err)
			}
			if tc.state == nil && (q.sql[0] != `select pg_notify($1, $2)` || q.args[0][0] != tc.channel || q.args[0][1] != tc.payload) {
				t.Errorf("sent %q", q.sql)
			}
		})
	}
	if err := Notify(t.Context(), &execs{err: errBroken}, "a", ""); !errors.Is(err, errBroken) {
		t.Errorf("the error is %v", err)
	}
	for name, want := range map[string]string{"orders": `"orders"`, `Or"ders`: `"Or""ders"`, "": ""} {
		if got, err := Quote(name); got != want || (err != nil) != (want == "") {
			t.Errorf("%q becomes %s, %v", name, got, err)
		}
	}
}

func TestNotifyJSON(t *testing.T) {
	q := &execs{}
	if err := NotifyJSON(t.Context(), q, "a", map[string]int{"id": 7}); err != nil || q.args[0][1] != `{"id":7}` {
		t.Errorf("%v, %v", q.args, err)
	}
	err := NotifyJSON(t.Context(), q, "a", make(chan int))
	var cause interface{ Error() string }
	if !errors.Is(err, ErrInvalidPayload) || !errors.As(err, &cause) || !strings.Contains(err.Error(), "chan int") {
		t.Errorf("the error is %v", err)
	}
}

func TestDecode(t *testing.T) {
	type order struct {
		ID int `json:"id"`
	}
	if o, err := Decode[order](Event{Payload: `{"id":7}`}); err != nil || o.ID != 7 {
		t.Errorf("%+v %v", o, err)
	}
	for _, payload := range []string{"", "nonsense", `{"id":"secret"}`, "null trailing", `{"id":1e99}`} {
		o, err := Decode[order](Event{Channel: "orders", Payload: payload})
		var decode *DecodeError
		if !errors.As(err, &decode) || decode.Err == nil || o.ID != 0 || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "notify.order") {
			t.Errorf("%q: %+v %v", payload, o, err)
		}
		if errors.Unwrap(err) == nil {
			t.Error("without its cause")
		}
	}
	if o, err := DecodeRecord[order](Record{Payload: `{"id":8}`}); err != nil || o.ID != 8 {
		t.Errorf("%+v %v", o, err)
	}
}

func TestJSON(t *testing.T) {
	var events iter.Seq2[Event, error] = func(yield func(Event, error) bool) {
		_ = yield(Event{Payload: "1"}, nil) && yield(Event{Kind: Gap}, nil) && yield(Event{Payload: "x"}, nil) &&
			yield(Event{Payload: "2"}, nil) && yield(Event{}, ErrClosed)
	}
	var values []int
	var decode *DecodeError
	bad, gaps := 0, 0
	var last error
	for e, err := range JSON[int](events) {
		switch {
		case errors.As(err, &decode):
			bad++
		case err != nil:
			last = err
		case e.Kind == Gap:
			gaps++
		default:
			values = append(values, e.Value)
		}
	}
	if len(values) != 2 || values[1] != 2 || bad != 1 || gaps != 1 || !errors.Is(last, ErrClosed) {
		t.Errorf("%v, %d bad, %d gaps, %v", values, bad, gaps, last)
	}
	for range JSON[int](events) {
		break
	}
}

func TestPosition(t *testing.T) {
	for _, p := range []Position{{}, {1, 2}, {1<<64 - 1, 1<<63 - 1}, {5, -1}} {
		text, err := p.MarshalText()
		var back Position
		if err2 := back.UnmarshalText(text); err != nil || err2 != nil || back != p {
			t.Errorf("%v becomes %s, becomes %v: %v %v", p, text, back, err, err2)
		}
	}
	p := Position{1, 2}
	for _, text := range []string{"1", "/", "1/", "/2", "x/2", "1/x", "-1/2", "1/2/3", "99999999999999999999/1", " 1/2"} {
		if err := p.UnmarshalText([]byte(text)); err == nil || p != (Position{1, 2}) {
			t.Errorf("%q becomes %v", text, p)
		}
	}
	if err := p.UnmarshalText(nil); err != nil || p != (Position{}) {
		t.Errorf("nothing becomes %v, %v", p, err)
	}
}

func TestNothingIsSentWithoutAHandle(t *testing.T) {
	var o Outbox
	_, publish := o.Publish(t.Context(), nil, "a", "")
	_, end := o.End(t.Context(), nil)
	_, purge := o.Purge(t.Context(), nil, time.Hour)
	var follow, listener error
	for _, err := range o.Follow(t.Context(), nil, nil, "a", Position{}) {
		follow = err
	}
	for _, err := range o.Follow(t.Context(), &execs{}, nil, "a", Position{}) {
		listener = err
	}
	for _, err := range []error{
		Notify(t.Context(), nil, "a", ""), NotifyJSON(t.Context(), nil, "a", 1), o.Create(t.Context(), nil), publish, end, purge, follow, listener,
	} {
		if err == nil || providers.OutcomeOf(err) != providers.OutcomeNotSent || !strings.HasSuffix(err.Error(), "is nil; nothing was sent") {
			t.Errorf("the error is %v", err)
		}
	}
}

func TestOutboxRefusesWhatCannotWork(t *testing.T) {
	q := &execs{}
	for name, o := range map[string]Outbox{
		"three parts": {Table: pgx.Identifier{"a", "b", "c"}},
		"no name":     {Table: pgx.Identifier{""}},
		"NUL":         {Table: pgx.Identifier{"a\x00"}},
		"long":        {Table: pgx.Identifier{strings.Repeat("x", 64)}},
		"page":        {PageSize: -1},
		"poll":        {PollInterval: -2},
	} {
		_, publish := o.Publish(t.Context(), q, "a", "")
		_, purge := o.Purge(t.Context(), q, 1)
		var follow error
		for _, err := range o.Follow(t.Context(), q, nil, "a", Position{}) {
			follow = err
		}
		for _, err := range []error{o.Create(t.Context(), q), publish, purge, follow} {
			var fault *providers.ConfigError
			if !errors.As(err, &fault) {
				t.Errorf("%s: the error is %v", name, err)
			}
		}
	}
	var o Outbox
	for payload, state := range map[string]error{"x\x00": ErrInvalidPayload, "\xff": ErrInvalidPayload} {
		if _, err := o.Publish(t.Context(), q, "a", payload); !errors.Is(err, state) {
			t.Errorf("the error is %v", err)
		}
	}
	if _, err := o.Publish(t.Context(), q, "", ""); !errors.Is(err, ErrInvalidChannel) {
		t.Errorf("the error is %v", err)
	}
	if _, err := o.PublishJSON(t.Context(), q, "a", make(chan int)); !errors.Is(err, ErrInvalidPayload) {
		t.Errorf("the error is %v", err)
	}
	if _, err := o.Purge(t.Context(), q, 0); err == nil {
		t.Error("purged everything")
	}
	if len(q.sql) > 0 {
		t.Errorf("sent %q", q.sql)
	}
	long := Outbox{Table: pgx.Identifier{"s", strings.Repeat("é", 31)}}
	if sql := long.SQL(); !utf8.ValidString(sql) || !strings.Contains(sql, `"s"."`+strings.Repeat("é", 31)+`"`) {
		t.Error(sql)
	}
	if err := o.Create(t.Context(), &execs{err: errBroken}); !errors.Is(err, errBroken) {
		t.Errorf("the error is %v", err)
	}
}

// Whatever the name, it is refused or it is one identifier that means the name.
func FuzzQuote(f *testing.F) {
	for _, seed := range []string{"a", `"`, `a"b`, "", "\x00", "\xff", strings.Repeat("é", 40), `x"; drop table y; --`, "Ünï", "$1", "\\"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, channel string) {
		quoted, err := Quote(channel)
		if err != nil {
			if !errors.Is(err, ErrInvalidChannel) || quoted != "" {
				t.Errorf("%q: %q %v", channel, quoted, err)
			}
			return
		}
		inner := quoted[1 : len(quoted)-1]
		if quoted[0] != '"' || quoted[len(quoted)-1] != '"' || strings.ReplaceAll(inner, `""`, `"`) != channel ||
			strings.Count(inner, `"`) != 2*strings.Count(channel, `"`) {
			t.Errorf("%q becomes %s", channel, quoted)
		}
		if len(channel) > 63 || strings.Contains(channel, "\x00") || !utf8.ValidString(channel) {
			t.Errorf("%q was accepted", channel)
		}
	})
}
