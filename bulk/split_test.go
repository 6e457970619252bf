package bulk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// recordEnds finds the ends of records byte by byte, after the server's source.
func recordEnds(data []byte, format Format) (ends []int) {
	s := newScanner(format)
	eol := byte(0)
	inQuotes, escaped := false, false
	for i, c := range data {
		if !s.csv {
			if escaped {
				escaped = false
				continue
			}
			if c == '\\' {
				escaped = true
				continue
			}
		} else {
			if s.escape != 0 && inQuotes && c == s.escape {
				escaped = !escaped
			}
			if c == s.quote && !escaped {
				inQuotes = !inQuotes
			}
			if c != s.escape {
				escaped = false
			}
			if inQuotes {
				continue
			}
		}
		if eol == 0 && (c == '\n' || c == '\r') {
			if eol = c; c == '\r' && i+1 < len(data) && data[i+1] == '\n' {
				eol = '\n'
			}
		}
		if c == eol && eol != 0 {
			ends = append(ends, i+1)
		}
	}
	return ends
}

// split returns all chunks of data.
func split(data []byte, format Format, size int, header bool) (head []byte, chunks []chunk, err error) {
	s := newSplitter(iotest.HalfReader(bytes.NewReader(data)), format, size)
	if header {
		if err := s.readHeader(); err != nil {
			return nil, nil, err
		}
	}
	var buffer []byte
	for {
		c, err := s.next(buffer)
		if errors.Is(err, io.EOF) {
			return s.header, chunks, nil
		}
		if err != nil {
			return nil, nil, err
		}
		buffer = c.data // it is used again
		c.data = bytes.Clone(c.data)
		chunks = append(chunks, c)
	}
}

func checkSplit(t *testing.T, data []byte, format Format, size int, header bool) {
	t.Helper()
	head, chunks, err := split(data, format, size, header)
	if errors.Is(err, errEndMarker) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	isEnd := map[int]bool{0: true, len(data): true}
	for i, end := range recordEnds(data, format) {
		isEnd[end] = true
		if i == 0 && header && len(head) != end {
			t.Fatalf("%q: the header has %d bytes instead of %d", data, len(head), end)
		}
	}
	whole := bytes.Clone(head)
	for i, c := range chunks {
		if c.no != int64(i) || c.offset != int64(len(whole)) || len(c.data) == 0 || !isEnd[len(whole)] {
			t.Fatalf("%q: chunk %d begins at %d, %+v", data, i, len(whole), c)
		}
		if lines := int64(bytes.Count(whole, []byte("\n"))); bytes.Contains(data, []byte("\n")) && !bytes.Contains(data, []byte("\r")) && c.line != lines+1 {
			t.Fatalf("%q: chunk %d begins with line %d instead of %d", data, i, c.line, lines+1)
		}
		whole = append(whole, c.data...)
	}
	if !bytes.Equal(whole, data) {
		t.Fatalf("%q became %q", data, whole)
	}
}

var splitFormats = []Format{CSV{}, CSV{Escape: '\\'}, CSV{Quote: '\'', Delimiter: ';'}, Text{}}

var splitSeeds = []string{
	"", "a", "a\n", "a\nb\n", "a\nb", "a\r\nb\r\n", "a\rb\r", "a\r", "\n\n\n", "\"a\nb\"\nc\n", "\"a\"\"\nb\"\nc\n", "\"a\\\"\nb\"\nc\n", "a\\\nb\nc\n",
	"x\"y\nz\"\nw\n", "\"unclosed\nto the end", "a\\", "\"\r\n\"\r\nb\r\n", "\\.\n", "a\n\\.\nb\n", "a\\\\\nb\n", "'a\n';b\nc\n", "\r\"\n\"", "\r\r", "a\r\rb\r",
}

func TestChunksEndWithRecords(t *testing.T) {
	var many strings.Builder
	for i := range 300 {
		fmt.Fprintf(&many, "%d,\"%s\n\"\"\",x\n", i, strings.Repeat("long ", i%17))
	}
	for _, format := range splitFormats {
		for _, data := range append(splitSeeds, many.String(), strings.ReplaceAll(many.String(), "\n", "\r\n"), strings.ReplaceAll(many.String(), "\n", "\r")) {
			sizes := []int{1, 2, 3, 7, 64, 1 << 10, 1 << 20}
			if len(data) > 1<<10 {
				sizes = sizes[5:]
			}
			for _, size := range sizes {
				checkSplit(t, []byte(data), format, size, false)
				checkSplit(t, []byte(data), format, size, true)
			}
		}
	}
}

func TestChunksAreTheSameHoweverTheDataCome(t *testing.T) {
	data := numbers(1, 2000)
	var want []chunk
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"as they are": func(r io.Reader) io.Reader { return r },
		"one byte":    iotest.OneByteReader,
		"with EOF":    iotest.DataErrReader,
	} {
		s := newSplitter(wrap(strings.NewReader(data)), CSV{}, 4096)
		var got []chunk
		for {
			c, err := s.next(nil)
			if err != nil {
				break
			}
			got = append(got, c)
		}
		if want == nil {
			want = got
		}
		if len(got) < 5 || len(got) != len(want) {
			t.Fatalf("%s: %d chunks instead of %d", name, len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i].data, want[i].data) || got[i].offset != want[i].offset {
				t.Errorf("%s: chunk %d differs", name, i)
			}
		}
	}
}

func TestWhatCannotBeSplit(t *testing.T) {
	block := bytes.Repeat([]byte("x"), 1<<20)
	endless := io.MultiReader(strings.NewReader(`"`), readerFunc(func(b []byte) (int, error) { return copy(b, block), nil }))
	if _, err := newSplitter(endless, CSV{}, 1<<20).next(nil); err == nil || !strings.Contains(err.Error(), "line 1 has more than") {
		t.Error(err)
	}
	if err := newSplitter(endless, CSV{}, 1<<20).readHeader(); err == nil || !strings.Contains(err.Error(), "the header has more than") {
		t.Error(err)
	}
	for _, broken := range []error{errOfCaller, io.ErrUnexpectedEOF} {
		r := func() io.Reader { return io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)) }
		if _, err := newSplitter(r(), CSV{}, 1<<10).next(nil); !errors.Is(err, broken) {
			t.Error(err)
		}
		if err := newSplitter(iotest.ErrReader(broken), CSV{}, 1<<10).readHeader(); !errors.Is(err, broken) {
			t.Error(err)
		}
	}
	_, _, err := split([]byte("h\na\nb\n\\.\nc\n"), Text{}, 3, true)
	if !errors.Is(err, errEndMarker) || !strings.Contains(err.Error(), "line 4 ") {
		t.Error(err)
	}
}

func FuzzSplit(f *testing.F) {
	for _, data := range splitSeeds {
		for i := range splitFormats {
			f.Add([]byte(data), uint8(i), uint8(3), i%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, format, size uint8, header bool) {
		checkSplit(t, data, splitFormats[int(format)%len(splitFormats)], int(size)+1, header)
	})
}
