// Package embedded makes pgtest download PostgreSQL where the machine has none.
// It is imported for that alone:
//
//	import _ "github.com/pgkeel/pgkeel/pgtest/embedded"
//
// The binaries are those of the zonky project, fetched once by
// fergusstrange/embedded-postgres and kept below the user's cache folder (as
// root, whose cache PostgreSQL's user cannot read, in /var/cache). The
// environment variable PGKEEL_PG_REPOSITORY names another Maven repository than
// Maven Central, without a slash at the end.
//
// It is a module of its own so that nobody's build carries the downloader who
// does not want it.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"

	"github.com/pgkeel/pgkeel/pgtest"
)

// Version is the version of PostgreSQL that is downloaded.
const Version = embeddedpostgres.V17

const repositoryEnv = "PGKEEL_PG_REPOSITORY"

func init() { pgtest.RegisterBinaries("embedded-postgres", find) }

// find returns the folder with the binaries, downloading them if need be.
func find(ctx context.Context) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	return fetch(ctx, cache, os.Getenv(repositoryEnv))
}

// rootCache is where root keeps them, whose own cache other users cannot read.
var rootCache = "/var/cache/pgkeel"

func cacheDir() (string, error) {
	if os.Geteuid() == 0 && runtime.GOOS == "linux" {
		return rootCache, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache folder: %w", err)
	}
	return filepath.Join(dir, "pgkeel"), nil
}

// fetch downloads below cache, unless it was done before.
func fetch(ctx context.Context, cache, repository string) (string, error) {
	home := filepath.Join(cache, fmt.Sprintf("postgres-%s", Version))
	if complete(home) {
		return filepath.Join(home, "bin"), nil
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	done := make(chan error, 1)
	go func() { done <- install(cache, home, repository) }()
	select {
	case err := <-done:
		return filepath.Join(home, "bin"), err
	case <-ctx.Done(): // the library takes no context; it ends by itself
		return "", context.Cause(ctx)
	}
}

// install unpacks elsewhere and moves the result, so that nobody finds half of it.
func install(cache, home, repository string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := unpack(work, repository); err != nil {
		return err
	}
	err = os.Rename(filepath.Join(work, "postgres"), home)
	if err != nil && complete(home) { // another process was faster
		return nil
	}
	return err
}

// unpack has the library download and unpack into work/postgres. It can only do
// so on the way to a server of its own, which is not wanted, and as root not
// possible. A data folder that cannot be made empty (a name that ends in a dot
// never can) ends its start right behind the unpacking, with an error.
func unpack(work, repository string) error {
	home := filepath.Join(work, "postgres")
	config := embeddedpostgres.DefaultConfig().Version(Version).Port(0).Logger(io.Discard).
		CachePath(filepath.Join(work, "archive")).BinariesPath(home).
		RuntimePath(filepath.Join(work, "runtime")).DataPath(work + "/runtime/.")
	if repository != "" {
		config = config.BinaryRepositoryURL(repository)
	}
	server := embeddedpostgres.NewDatabase(config)
	err := server.Start()
	if err == nil {
		err = server.Stop()
	}
	if complete(home) {
		return os.Chmod(home, 0o755)
	}
	return errors.Join(errors.New("the download has no PostgreSQL in it"), err)
}

func complete(home string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(filepath.Join(home, "bin", name)); err != nil {
			return false
		}
	}
	return true
}
