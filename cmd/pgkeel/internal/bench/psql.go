package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// findPsql looks where pgtest looks for the server: the folder that
// PGKEEL_PG_BIN names, PATH, and the newest of Debian's.
func findPsql() string {
	if dir := os.Getenv("PGKEEL_PG_BIN"); dir != "" {
		if path, err := osexec.LookPath(filepath.Join(dir, "psql")); err == nil {
			return path
		}
	}
	if path, err := osexec.LookPath("psql"); err == nil {
		return path
	}
	best, bestMajor := "", -1
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	for _, path := range found {
		if major, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))); err == nil && major > bestMajor {
			best, bestMajor = path, major
		}
	}
	return best
}

// onPsql opens a session of psql, which goes on for all operations. Where there
// is no psql, the bare driver takes its place, and the report says so.
func onPsql(rows int64) Opener {
	return func(ctx context.Context, site Site) (Side, error) {
		file, err := writeCSV(rows)
		if err != nil {
			return Side{}, err
		}
		side, err := openPsql(ctx, findPsql(), site, file, rows)
		return withFile(side, file), errors.Join(err, removeIf(err, file))
	}
}

func openPsql(ctx context.Context, program string, site Site, file string, rows int64) (Side, error) {
	if program == "" {
		side, err := onPool(func(pool *pgxpool.Pool, site Site) Op {
			return func(ctx context.Context, _, _ int) error {
				return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
					n, err := copyBare(ctx, conn.Conn().PgConn(), site.Table("loaded"), file)
					return errors.Join(err, expect(rows, n))
				})
			}
		})(ctx, site)
		side.Note = func() string { return "no psql was found, so the baseline is the bare driver" }
		return side, err
	}
	p, err := startPsql(program, site.DSN)
	if err != nil {
		return Side{}, err
	}
	command := fmt.Sprintf("\\copy %s from '%s' csv\n", site.Table("loaded"), strings.ReplaceAll(file, "'", "''"))
	return Side{
		Op: func(ctx context.Context, _, _ int) error {
			n, err := p.copy(ctx, command)
			return errors.Join(err, expect(rows, n))
		},
		Close: func(context.Context) error { return p.close() },
		Note:  func() string { return "psql is a process of its own: the CPU time and the allocations do not compare" },
	}, nil
}

// psql is a session under way.
type psql struct {
	cmd    *osexec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	errors strings.Builder
	ended  bool
}

func startPsql(program, dsn string) (*psql, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	p := &psql{cmd: osexec.Command(program, "--no-psqlrc", "--set=ON_ERROR_STOP=1")}
	p.cmd.Env = append(os.Environ(), libpqEnv(config.ConnConfig)...)
	p.cmd.Stderr = &p.errors
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

// libpqEnv is where to connect, in the environment, since everybody can read a
// program's arguments.
func libpqEnv(c *pgx.ConnConfig) []string {
	mode := "disable"
	if c.TLSConfig != nil {
		mode = "require"
	}
	return []string{
		"PGHOST=" + c.Host, "PGPORT=" + strconv.Itoa(int(c.Port)), "PGUSER=" + c.User, "PGPASSWORD=" + c.Password,
		"PGDATABASE=" + c.Database, "PGSSLMODE=" + mode,
	}
}

// copy runs a \copy and returns how many rows psql says it had.
func (p *psql) copy(ctx context.Context, command string) (int64, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	if _, err := io.WriteString(p.in, command); err != nil {
		return 0, err
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return 0, errors.Join(ctx.Err(), p.close(), fmt.Errorf("psql ended: %s", strings.TrimSpace(p.errors.String())))
	}
	return strconv.ParseInt(strings.TrimSpace(strings.TrimPrefix(line, "COPY")), 10, 64)
}

func (p *psql) close() error {
	if p.ended {
		return nil
	}
	p.ended = true
	_ = p.in.Close()
	err := p.cmd.Wait()
	var exit *osexec.ExitError
	if errors.As(err, &exit) {
		return nil // the operation has told of it
	}
	return err
}
