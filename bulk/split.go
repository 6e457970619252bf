package bulk

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
)

// scanner finds the ends of records as the server does. In CSV a line end
// counts unless the quotes before it are odd, wherever they stand; in text
// unless a backslash stands before it.
type scanner struct {
	csv           bool
	quote, escape byte // escape is 0 where it is the quote
	// eol is what ends lines: '\n' or '\r', or 0 before the first.
	eol      byte
	inQuotes bool
	escaped  bool
}

func newScanner(format Format) scanner {
	c, ok := format.(CSV)
	if !ok {
		return scanner{quote: '\\'}
	}
	s := scanner{csv: true, quote: c.quote(), escape: c.escape()}
	if s.escape == s.quote {
		s.escape = 0
	}
	return s
}

// scan goes through data that follow what it has seen. It returns how much of
// them it could use, and the place behind the last record's end, or 0.
func (s *scanner) scan(data []byte, eof bool) (used, end int) {
	for used < len(data) {
		if s.escaped {
			s.escaped = false
			used++
			continue
		}
		if s.inQuotes {
			used += s.throughQuotes(data[used:])
			continue
		}
		// Up to the next quote, or backslash, nothing but line ends matters.
		plain := data[used:]
		next := bytes.IndexByte(plain, s.quote)
		if next >= 0 {
			plain = plain[:next]
		}
		if !s.knowsEOL(plain, next >= 0 || eof) {
			return used, end
		}
		if i := bytes.LastIndexByte(plain, s.eol); s.eol != 0 && i >= 0 {
			end = used + i + 1
		}
		used += len(plain)
		if next >= 0 {
			used++
			s.inQuotes, s.escaped = s.csv, !s.csv
		}
	}
	return used, end
}

// knowsEOL learns from the first line end how lines end. It cannot tell from a
// carriage return at the very end of what there is.
func (s *scanner) knowsEOL(plain []byte, more bool) bool {
	if s.eol != 0 {
		return true
	}
	i := bytes.IndexAny(plain, "\r\n")
	switch {
	case i < 0:
	case plain[i] == '\n':
		s.eol = '\n'
	case i+1 < len(plain):
		s.eol = '\r'
		if plain[i+1] == '\n' {
			s.eol = '\n'
		}
	case more:
		s.eol = '\r'
	default:
		return false
	}
	return true
}

// throughQuotes goes to behind the closing quote, or through all of data.
func (s *scanner) throughQuotes(data []byte) int {
	if s.escape == 0 {
		i := bytes.IndexByte(data, s.quote)
		if i < 0 {
			return len(data)
		}
		s.inQuotes = false
		return i + 1
	}
	for i, c := range data {
		switch c {
		case s.escape:
			s.escaped = true
			return i + 1
		case s.quote:
			s.inQuotes = false
			return i + 1
		}
	}
	return len(data)
}

// chunk is a run of whole records.
type chunk struct {
	no int64
	// offset and line are where it begins: in bytes from 0, in lines from 1.
	offset, line int64
	data         []byte
}

// splitter cuts data into chunks. The same data and size make the same chunks,
// however the reader hands them out.
type splitter struct {
	r       io.Reader
	scanner scanner
	size    int
	header  []byte

	carry  []byte
	offset int64
	line   int64
	no     int64
	eof    bool
}

const (
	// maxRecord is how long a record may be, maxHeader how long a header.
	maxRecord = 64 << 20
	maxHeader = 1 << 20
	// readPatience is how often a reader may return nothing in a row.
	readPatience = 100
)

var errEndMarker = errors.New(`holds nothing but \., which ends the data for servers before PostgreSQL 18; take the line out`)

func newSplitter(r io.Reader, format Format, size int) *splitter {
	return &splitter{r: bufio.NewReaderSize(r, bufferSize), scanner: newScanner(format), size: size, line: 1}
}

// readHeader takes the first record off.
func (s *splitter) readHeader() error {
	probe := s.scanner
	var buffer []byte
	for seen := 0; ; {
		var err error
		buffer = slices.Grow(buffer, 1) // in steps: fill would make room for this byte only
		if buffer, err = s.fill(buffer, len(buffer)+1); err != nil {
			return err
		}
		used, end := probe.scan(buffer[seen:], s.eof)
		if end > 0 {
			// The byte behind a carriage return was needed to understand it, and may
			// end a record as well.
			end = seen + bytes.IndexByte(buffer[seen:], probe.eol) + 1
			s.header, s.carry = buffer[:end], buffer[end:]
			break
		}
		if seen += used; s.eof {
			s.header = buffer
			break
		}
		if len(buffer) > maxHeader {
			return fmt.Errorf("pgkeel: bulk: the header has more than %d bytes; is a quote missing?", maxHeader)
		}
	}
	s.scanner.eol = probe.eol
	s.offset = int64(len(s.header))
	s.line += s.lines(s.header)
	return nil
}

func (s *splitter) tooLong() error {
	return fmt.Errorf("pgkeel: bulk: the record at line %d has more than %d bytes; is a quote missing?", s.line, maxRecord)
}

// next fills buffer with the next chunk. At the end the error is io.EOF.
func (s *splitter) next(buffer []byte) (chunk, error) {
	buffer = append(buffer[:0], s.carry...)
	s.carry = nil
	end, seen := 0, len(buffer)
	if s.no == 0 {
		seen = 0 // what readHeader left was not scanned
	}
	for size := s.size; ; size *= 2 {
		var err error
		if buffer, err = s.fill(buffer, size); err != nil {
			return chunk{}, err
		}
		used, last := s.scanner.scan(buffer[seen:], s.eof)
		if last > 0 {
			end = seen + last
		}
		seen += used
		if s.eof {
			end = len(buffer)
		}
		if end > 0 || s.eof {
			break
		}
		if size >= maxRecord {
			return chunk{}, s.tooLong()
		}
	}
	if len(buffer) == 0 {
		return chunk{}, io.EOF
	}
	return s.cut(buffer, end)
}

func (s *splitter) cut(buffer []byte, end int) (chunk, error) {
	c := chunk{no: s.no, offset: s.offset, line: s.line, data: buffer[:end]}
	if i := endMarker(c.data); i >= 0 {
		return chunk{}, fmt.Errorf("pgkeel: bulk: line %d %w", c.line+s.lines(c.data[:i]), errEndMarker)
	}
	s.carry = append([]byte(nil), buffer[end:]...)
	s.no++
	s.offset += int64(end)
	s.line += s.lines(c.data)
	return c, nil
}

// fill reads until buffer has size bytes, or there are no more.
func (s *splitter) fill(buffer []byte, size int) ([]byte, error) {
	from := len(buffer)
	if s.eof || from >= size {
		return buffer, nil
	}
	if cap(buffer) < size {
		// Exactly as much: these buffers are what a load keeps in memory.
		grown := make([]byte, from, size)
		copy(grown, buffer)
		buffer = grown
	}
	buffer = buffer[:size]
	for idle := 0; from < size; {
		// Not io.ReadFull, whose end of data looks like that of a torn archive.
		n, err := s.r.Read(buffer[from:])
		if from += n; n > 0 {
			idle = 0
		} else if idle++; err == nil && idle > readPatience {
			err = io.ErrNoProgress
		}
		if err == io.EOF {
			s.eof = true
			break
		}
		if err != nil {
			return nil, fmt.Errorf("pgkeel: bulk: the reader failed at byte %d: %w", s.offset+int64(from), err)
		}
	}
	return buffer[:from], nil
}

// lines counts as the server does.
func (s *splitter) lines(data []byte) int64 {
	if s.scanner.eol == '\r' {
		return int64(bytes.Count(data, []byte{'\r'}))
	}
	return int64(bytes.Count(data, []byte{'\n'}))
}

// endMarker finds a line of nothing but \. and returns where it begins, or -1.
func endMarker(data []byte) int {
	for from := 0; ; {
		i := bytes.Index(data[from:], []byte(`\.`))
		if i < 0 {
			return -1
		}
		i += from
		from = i + 2
		begins := i == 0 || data[i-1] == '\n' || data[i-1] == '\r'
		ends := from == len(data) || data[from] == '\n' || data[from] == '\r'
		if begins && ends {
			return i
		}
	}
}
