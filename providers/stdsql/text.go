package stdsql

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// describe makes pgx's field descriptions of a driver's columns. The type is
// known by the name that the driver gives it, or by its number; else it is 0.
func describe(types *pgtype.Map, names []string, typeNames []string) []pgconn.FieldDescription {
	fields := make([]pgconn.FieldDescription, len(names))
	for i, name := range names {
		fields[i] = pgconn.FieldDescription{Name: name, Format: pgx.TextFormatCode}
		if t, ok := types.TypeForName(strings.ToLower(typeNames[i])); ok {
			fields[i].DataTypeOID = t.OID
		} else if oid, err := strconv.ParseUint(typeNames[i], 10, 32); err == nil {
			fields[i].DataTypeOID = uint32(oid)
		}
	}
	return fields
}

// asText is a driver's value in PostgreSQL's text form, so that pgx's own types
// scan it; nil is NULL.
func asText(oid uint32, value any) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []byte(v), nil
	case []byte:
		if oid == pgtype.ByteaOID {
			return hex.AppendEncode([]byte(`\x`), v), nil
		}
		if v == nil {
			v = []byte{}
		}
		return v, nil
	case int64:
		return strconv.AppendInt(nil, v, 10), nil
	case float64:
		bits := 64
		if oid == pgtype.Float4OID {
			bits = 32
		}
		return strconv.AppendFloat(nil, v, 'g', -1, bits), nil
	case bool:
		if v {
			return []byte("t"), nil
		}
		return []byte("f"), nil
	case time.Time:
		return timeText(oid, v), nil
	default:
		return nil, fmt.Errorf("pgkeel: the driver returned a %T", value)
	}
}

// timeText writes a time as the server would write the column's type.
func timeText(oid uint32, v time.Time) []byte {
	layout := "2006-01-02 15:04:05.999999-07:00:00"
	switch oid {
	case pgtype.DateOID:
		layout = "2006-01-02"
	case pgtype.TimestampOID:
		layout = "2006-01-02 15:04:05.999999"
	case pgtype.TimeOID:
		return v.AppendFormat(nil, "15:04:05.999999")
	case pgtype.TimetzOID:
		return v.AppendFormat(nil, "15:04:05.999999-07:00")
	}
	if year := v.Year(); year <= 0 { // there is no year 0: 1 BC comes before AD 1
		text := fmt.Appendf(nil, "%04d", 1-year)
		return append(v.AppendFormat(text, layout[len("2006"):]), " BC"...)
	}
	return v.AppendFormat(nil, layout)
}
