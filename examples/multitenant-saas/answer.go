package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
	"github.com/pgkeel/pgkeel/tenancy"
)

// maxBody is the most bytes of a request that are read.
const maxBody = 64 << 10

// handler returns what to answer with. Without a body the status alone is sent.
type handler func(r *http.Request) (status int, body any, err error)

// statusError is an error that the client may read.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

func refusal(status int, format string, args ...any) error {
	return &statusError{status, fmt.Sprintf(format, args...)}
}

// answer turns what a handler returns into a response.
func (a *app) answer(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		status, body, err := h(r)
		switch {
		case err != nil:
			a.fail(w, r, err)
		case body == nil:
			w.WriteHeader(status)
		default:
			send(w, status, body)
		}
	})
}

// fail answers with an error. What the database says stays in the log.
func (a *app) fail(w http.ResponseWriter, r *http.Request, err error) {
	var told *statusError
	var pg *pgkeel.PGError
	var timeout *pgkeel.TimeoutError
	switch {
	case errors.As(err, &told):
		refuse(w, told.status, told.text)
	case errors.Is(err, pgx.ErrNoRows):
		// Of another tenant, or not there: the two cannot be told apart.
		refuse(w, http.StatusNotFound, "there is no such thing")
	case errors.As(err, &pg) && pg.IsUniqueViolation():
		refuse(w, http.StatusConflict, "it is there already")
	case errors.Is(err, pgkeel.ErrPoolExhausted), errors.Is(err, tenancy.ErrTenantBusy):
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "too many requests at a time")
	case errors.As(err, &timeout):
		refuse(w, http.StatusGatewayTimeout, "it took too long")
	default:
		a.log.ErrorContext(r.Context(), "request failed", "route", r.Pattern, "err", err, "outcome", pgkeel.OutcomeOf(err))
		refuse(w, http.StatusInternalServerError, "something went wrong")
	}
}

func refuse(w http.ResponseWriter, status int, text string) {
	send(w, status, map[string]string{"error": text})
}

func send(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the client is gone
}

// receive reads the body of a request.
func receive[T any](r *http.Request) (T, error) {
	var body T
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		return body, refusal(http.StatusBadRequest, "the body is not what is expected: %v", err)
	}
	return body, nil
}
