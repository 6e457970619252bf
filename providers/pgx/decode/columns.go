// Package decode reads rows as the driver does, for results that pgkeel takes from
// the wire itself.
package decode

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// ErrClosed is that of rows that are closed.
var ErrClosed = errors.New("rows is closed")

// Fields are the columns that the server describes.
func Fields(msg *pgproto3.RowDescription) []pgconn.FieldDescription {
	fields := make([]pgconn.FieldDescription, len(msg.Fields))
	for i, f := range msg.Fields {
		fields[i] = pgconn.FieldDescription{
			Name: string(f.Name), TableOID: f.TableOID, TableAttributeNumber: f.TableAttributeNumber,
			DataTypeOID: f.DataTypeOID, DataTypeSize: f.DataTypeSize, TypeModifier: f.TypeModifier, Format: f.Format,
		}
	}
	return fields
}

// Columns are those of a result. They remember how values were read into the
// destinations of the last row, and are for one goroutine at a time.
type Columns struct {
	Types  *pgtype.Map
	Fields []pgconn.FieldDescription

	plans []pgtype.ScanPlan
	kinds []reflect.Type
}

// Scan reads a row's values into dest. rows are those that a [pgx.RowScanner]
// gets.
func (c *Columns) Scan(rows pgx.Rows, values [][]byte, dest []any) error {
	if len(dest) == 1 {
		if scanner, ok := dest[0].(pgx.RowScanner); ok {
			return scanner.ScanRow(rows)
		}
	}
	if err := c.check(len(values)); err != nil {
		return err
	}
	if len(dest) != len(values) {
		return fmt.Errorf("number of field descriptions must equal number of destinations, got %d and %d", len(values), len(dest))
	}
	if len(c.plans) != len(dest) {
		c.plans, c.kinds = make([]pgtype.ScanPlan, len(dest)), make([]reflect.Type, len(dest))
	}
	for i, d := range dest {
		if d == nil {
			continue
		}
		if kind := reflect.TypeOf(d); c.kinds[i] != kind {
			c.kinds[i] = kind
			c.plans[i] = c.Types.PlanScan(c.Fields[i].DataTypeOID, c.Fields[i].Format, d)
		}
		if err := c.plans[i].Scan(values[i], d); err != nil {
			return pgx.ScanArgError{ColumnIndex: i, FieldName: c.Fields[i].Name, Err: err}
		}
	}
	return nil
}

// check finds out a server that sends other rows than it announced.
func (c *Columns) check(values int) error {
	if len(c.Fields) != values {
		return fmt.Errorf("the server described %d columns and sent %d values", len(c.Fields), values)
	}
	return nil
}

// Values decodes a row.
func (c *Columns) Values(values [][]byte) ([]any, error) {
	if err := c.check(len(values)); err != nil {
		return nil, err
	}
	decoded := make([]any, len(values))
	for i, raw := range values {
		v, err := c.value(i, raw)
		if err != nil {
			return nil, err
		}
		decoded[i] = v
	}
	return decoded, nil
}

func (c *Columns) value(i int, raw []byte) (any, error) {
	if raw == nil {
		return nil, nil
	}
	f := c.Fields[i]
	if t, ok := c.Types.TypeForOID(f.DataTypeOID); ok {
		return t.Codec.DecodeValue(c.Types, f.DataTypeOID, f.Format, raw)
	}
	if f.Format == pgx.TextFormatCode {
		return string(raw), nil
	}
	return append([]byte{}, raw...), nil
}
