// Command multitenant-saas is a small web application for many tenants in one
// database: each signs up, and from then on sees its own notes only, because
// PostgreSQL shows it no others. See README.md.
//
//	main.go    flags, the server, its end
//	own.go     a PostgreSQL of its own, without -dsn
//	schema.go  tables, roles and policies
//	app.go     the handle and the routes
//	signup.go  a new tenant with its first user, and who is asking
//	notes.go   what tenants do
//	admin.go   what the operator sees, and the audit
//	answer.go  JSON, and errors as statuses
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// poolSize is how many connections to the database there are at most.
const poolSize = 10

// Limits of the server. A request has less time than its answer may take to be
// written, so that its error still gets through.
const (
	requestTimeout  = 5 * time.Second
	headerTimeout   = 5 * time.Second
	readTimeout     = 10 * time.Second
	writeTimeout    = 15 * time.Second
	idleTimeout     = time.Minute
	shutdownTimeout = 10 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "multitenant-saas:", err)
		os.Exit(1)
	}
}

// settings are what the flags say.
type settings struct {
	addr, dsn, domain       string
	appPassword, adminToken string
	pool                    int32
}

func parse(args []string, out io.Writer) (settings, error) {
	s := settings{pool: poolSize}
	flags := flag.NewFlagSet("multitenant-saas", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&s.addr, "addr", "localhost:8080", "`address` to listen on")
	flags.StringVar(&s.dsn, "dsn", "", "`DSN` of the database, as a superuser, who makes roles and tables; empty starts a PostgreSQL")
	flags.StringVar(&s.domain, "domain", "saas.localhost", "`domain` below which tenants have their subdomains")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	// Secrets come from the environment: a command line is there for all to see.
	s.appPassword = cmp.Or(os.Getenv("SAAS_APP_PASSWORD"), rand.Text())
	s.adminToken = os.Getenv("SAAS_ADMIN_TOKEN")
	return s, err
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	s, err := parse(args, out)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(out, nil))
	if s.dsn == "" {
		own, err := startOwn(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, own.Close(context.WithoutCancel(ctx))) }()
		s.dsn = own.Primary().DSN("")
	}
	if s.adminToken == "" {
		s.adminToken = rand.Text()
		log.Info("SAAS_ADMIN_TOKEN is not set, so the administrator's token is a new one", "token", s.adminToken)
	}
	if err := prepare(ctx, s.dsn, s.appPassword); err != nil {
		return fmt.Errorf("prepare the database: %w", err)
	}
	a, err := openApp(ctx, s, log)
	if err != nil {
		return err
	}
	return errors.Join(serve(ctx, a, s.addr), a.close(ctx))
}

// serve answers until the context ends, and lets what is under way come to its
// end.
func serve(ctx context.Context, a *app, addr string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           a.routes(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	a.log.Info("listening", "url", "http://"+listener.Addr().String(), "domain", a.domain)
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	a.log.Info("shutting down")
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	return server.Shutdown(ending)
}
