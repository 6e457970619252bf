package pgx

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel/providers"
)

func TestSizeOfArguments(t *testing.T) {
	const size = 10_000
	text := strings.Repeat("x", size)
	many := strings.Split(strings.Repeat("x,", size/10), ",")
	type named string
	type row struct {
		Name string
		Next *row
	}
	var none *string
	for name, arg := range map[string]any{
		"string": text, "bytes": []byte(text), "pointer": &text, "JSON": json.RawMessage(text), "strings": many,
		"named type": named(text), "array of bytes": [size]byte{}, "numbers": make([]int64, size),
		"map": map[string]any{"a": text}, "named arguments": pgx.NamedArgs{"a": text}, "struct": row{Name: text},
		"pointer to a struct": &row{Name: text}, "struct in a struct": row{Next: &row{Name: text}}, "any": []any{text},
	} {
		if got := sizeOf([]any{arg}, 2); got < size {
			t.Errorf("%s: %d bytes", name, got)
		}
	}
	loop := &row{}
	loop.Next = loop
	for name, arg := range map[string]any{
		"number": 1, "nil": nil, "nil pointer": none, "nil of a type": (*row)(nil), "time": time.Now(), "empty": []int{}, "loop": loop,
		"function": func() {},
	} {
		if got := sizeOf([]any{arg}, 2); got <= 0 || got > 200 {
			t.Errorf("%s: %d bytes", name, got)
		}
	}
}

func TestWordsOfTransactionControl(t *testing.T) {
	for sql, want := range map[string][2]bool{
		"begin": {true, false}, " BEGIN work": {true, false}, "-- x\n/* y */ commit": {true, false}, "end;": {true, false},
		"abort": {true, false}, "rollback": {true, true}, "rollback to savepoint a": {false, true},
		"rollback -- to\n": {true, true}, "start transaction": {true, false}, "start": {false, false},
		"prepare transaction 'a'": {true, false}, "prepare a as select 1": {false, false},
		"savepoint a": {false, true}, "set local a = 1": {false, true}, "lock t": {false, true},
		"select 1": {false, false}, "": {false, false}, "select 'begin'": {false, false}, `"begin"`: {false, false},
	} {
		if got := [2]bool{errors.Is(refusal(sql), providers.ErrBatchControl), needsBlock(sql)}; got != want {
			t.Errorf("%s: %v", sql, got)
		}
	}
}
