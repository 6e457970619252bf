package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgkeel/pgkeel"
)

// note is a row of a tenant.
type note struct {
	ID        int64     `json:"id"`
	Title     string    `json:"title"`
	Body      string    `json:"body"`
	Author    int64     `json:"author"`
	CreatedAt time.Time `json:"created_at"`
}

type noteRequest struct {
	Title string `json:"title"`
	Body  string `json:"body"`
}

// pageSize is how many notes a list has at most; ?after=id goes on from there.
const pageSize = 100

// None of these statements says whose notes it means.

func (a *app) listNotes(r *http.Request) (int, any, error) {
	after := int64(0)
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseInt(text, 10, 64); err != nil {
			return 0, nil, refusal(http.StatusBadRequest, "after must be the id of a note")
		}
	}
	all, err := pgkeel.All[note](r.Context(), a.db,
		`select id, title, body, author, created_at from notes where id > $1 order by id limit $2`, after, pageSize)
	return http.StatusOK, all, err
}

func (a *app) addNote(r *http.Request) (int, any, error) {
	in, err := receiveNote(r)
	if err != nil {
		return 0, nil, err
	}
	added, err := pgkeel.One[note](r.Context(), a.db,
		`insert into notes (title, body) values ($1, $2) returning id, title, body, author, created_at`, in.Title, in.Body)
	return http.StatusCreated, added, err
}

func (a *app) readNote(r *http.Request) (int, any, error) {
	id, err := noteID(r)
	if err != nil {
		return 0, nil, err
	}
	found, err := pgkeel.One[note](r.Context(), a.db, `select id, title, body, author, created_at from notes where id = $1`, id)
	return http.StatusOK, found, err
}

func (a *app) changeNote(r *http.Request) (int, any, error) {
	id, err := noteID(r)
	if err != nil {
		return 0, nil, err
	}
	in, err := receiveNote(r)
	if err != nil {
		return 0, nil, err
	}
	changed, err := pgkeel.One[note](r.Context(), a.db,
		`update notes set title = $2, body = $3 where id = $1 returning id, title, body, author, created_at`, id, in.Title, in.Body)
	return http.StatusOK, changed, err
}

func (a *app) deleteNote(r *http.Request) (int, any, error) {
	id, err := noteID(r)
	if err != nil {
		return 0, nil, err
	}
	tag, err := a.db.Exec(r.Context(), `delete from notes where id = $1`, id)
	if err == nil && tag.RowsAffected() == 0 {
		err = pgx.ErrNoRows
	}
	return http.StatusNoContent, nil, err
}

func receiveNote(r *http.Request) (noteRequest, error) {
	in, err := receive[noteRequest](r)
	if err == nil && in.Title == "" {
		err = refusal(http.StatusBadRequest, "a note needs a title")
	}
	return in, err
}

// noteID is the id in the path. What is no number is no note.
func noteID(r *http.Request) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return 0, pgx.ErrNoRows
	}
	return id, nil
}
