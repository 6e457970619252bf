package outcome

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// key names a transaction. It is a UUID of version 7: 48 bits of the time in
// milliseconds, so that rows which are made and swept together stand together in
// the index, and 74 random bits. What the time says is not relied on.
type key [16]byte

func newKey() key {
	var k key
	_, _ = rand.Read(k[:]) // it never fails
	random := binary.BigEndian.Uint16(k[6:])
	ms := uint64(time.Now().UnixMilli())
	binary.BigEndian.PutUint64(k[:], ms<<16|uint64(0x7000|random&0x0fff))
	k[8] = 0x80 | k[8]&0x3f
	return k
}

// String is the key as PostgreSQL prints it.
func (k key) String() string {
	var s [36]byte
	at := 0
	for i, group := range [][]byte{k[:4], k[4:6], k[6:8], k[8:10], k[10:]} {
		if i > 0 {
			s[at] = '-'
			at++
		}
		at += hex.Encode(s[at:], group)
	}
	return string(s[:])
}

// lock is the key of the advisory lock that tells which session a transaction
// is in.
func (k key) lock() int64 { return int64(binary.BigEndian.Uint64(k[8:])) } //nolint:gosec // all bits count
