package demo

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the data set
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/jackc/pgx/v5"
)

//go:embed data/cities.csv.gz
var citiesCSV []byte

// attribution is what the data's licence asks to be told.
const attribution = "Places: GeoNames (https://www.geonames.org/), CC BY 4.0\n" +
	"(https://creativecommons.org/licenses/by/4.0/), converted to CSV."

// place is a row of the data set, and of the table cities.
type place struct {
	ID       int32 // the number of the row, from 1
	Name     string
	Country  string
	Admin1   string
	Admin2   string
	Lat, Lng float64
}

// placeColumns are the columns of the table, in the order of place.row.
var placeColumns = []string{"id", "name", "country", "admin1", "admin2", "lat", "lng"}

func (p place) row() []any {
	return []any{p.ID, p.Name, p.Country, p.Admin1, p.Admin2, p.Lat, p.Lng}
}

// readPlaces unpacks the data set.
func readPlaces(compressed []byte) ([]place, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("the data set: %w", err)
	}
	records := csv.NewReader(unzipped)
	records.ReuseRecord = true
	if _, err := records.Read(); err != nil { // the header
		return nil, fmt.Errorf("the data set: %w", err)
	}
	var places []place
	for {
		record, err := records.Read()
		if errors.Is(err, io.EOF) {
			return places, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the data set: %w", err)
		}
		p, err := parsePlace(int32(len(places)+1), record) //nolint:gosec // a small, embedded file
		if err != nil {
			return nil, fmt.Errorf("the data set: place %d: %w", p.ID, err)
		}
		places = append(places, p)
	}
}

func parsePlace(id int32, record []string) (place, error) {
	p := place{ID: id}
	if len(record) != len(placeColumns)-1 {
		return p, fmt.Errorf("%d fields", len(record))
	}
	p.Name, p.Country, p.Admin1, p.Admin2 = record[0], record[1], record[2], record[3]
	var latErr, lngErr error
	p.Lat, latErr = strconv.ParseFloat(record[4], 64)
	p.Lng, lngErr = strconv.ParseFloat(record[5], 64)
	return p, errors.Join(latErr, lngErr)
}

// copySource feeds places to COPY and counts them on the way.
type copySource struct {
	places []place
	next   int
	bar    *progress
}

var _ pgx.CopyFromSource = (*copySource)(nil)

func (s *copySource) Next() bool {
	if s.next == len(s.places) {
		return false
	}
	s.next++
	s.bar.add()
	return true
}

func (s *copySource) Values() ([]any, error) { return s.places[s.next-1].row(), nil }

func (s *copySource) Err() error { return nil }
