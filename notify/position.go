package notify

import (
	"fmt"
	"strconv"
	"strings"
)

// Position is a place in an outbox: that of the last record that was dealt with.
// The zero Position is before the first.
type Position struct {
	// XID is the transaction that wrote the record.
	XID uint64
	// ID is the record's.
	ID int64
}

// newPosition makes a position of what the server sends: an xid8 is no integer.
func newPosition(xid string, id int64) (Position, error) {
	x, err := strconv.ParseUint(xid, 10, 64)
	return Position{XID: x, ID: id}, err
}

// String returns the position as text, such as "748/12".
func (p Position) String() string {
	return strconv.FormatUint(p.XID, 10) + "/" + strconv.FormatInt(p.ID, 10)
}

// MarshalText is String.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the reverse of MarshalText. The empty text is the zero
// position.
func (p *Position) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = Position{}
		return nil
	}
	xid, id, ok := strings.Cut(string(text), "/")
	x, err := strconv.ParseUint(xid, 10, 64)
	if err != nil || !ok {
		return fmt.Errorf("pgkeel: %q is no position in an outbox, such as 748/12", text)
	}
	i, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return fmt.Errorf("pgkeel: %q is no position in an outbox, such as 748/12", text)
	}
	*p = Position{XID: x, ID: i}
	return nil
}
