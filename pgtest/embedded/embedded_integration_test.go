package embedded

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// repository serves an archive laid out like the zonky project's, with two
// small programs in it, from a real HTTP server.
func repository(t *testing.T) (url string, downloads *atomic.Int32) {
	t.Helper()
	archive := jar(t)
	downloads = &atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, string(Version)) || !strings.HasSuffix(r.URL.Path, ".jar") {
			http.NotFound(w, r)
			return
		}
		downloads.Add(1)
		_, _ = w.Write(archive)
	}))
	t.Cleanup(server.Close)
	return server.URL, downloads
}

func jar(t *testing.T) []byte {
	t.Helper()
	var tarred, zipped bytes.Buffer
	tw := tar.NewWriter(&tarred)
	for _, name := range []string{"bin/initdb", "bin/postgres", "bin/pg_ctl"} {
		body := "#!/bin/sh\necho " + name + "\n"
		err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(body)), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = io.WriteString(tw, body)
		}
		must(t, err)
	}
	must(t, tw.Close())
	cmd := exec.Command("xz", "--stdout")
	cmd.Stdin = &tarred
	packed, err := cmd.Output()
	must(t, err)
	zw := zip.NewWriter(&zipped)
	w, err := zw.Create("postgres.txz")
	must(t, err)
	_, err = w.Write(packed)
	must(t, err)
	must(t, zw.Close())
	return zipped.Bytes()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFetchDownloadsOnce(t *testing.T) {
	url, downloads := repository(t)
	cache := filepath.Join(t.TempDir(), "cache")
	for range 2 {
		bin, err := fetch(t.Context(), cache, url)
		must(t, err)
		out, err := exec.Command(filepath.Join(bin, "postgres")).Output()
		if err != nil || string(out) != "bin/postgres\n" {
			t.Errorf("%q, %v", out, err)
		}
	}
	if downloads.Load() != 1 {
		t.Errorf("%d downloads", downloads.Load())
	}
	entries, err := os.ReadDir(cache)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("more than the binaries is left: %v", entries)
	}
}

func TestFetchFailsClearly(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	if _, err := fetch(t.Context(), t.TempDir(), server.URL); err == nil || !strings.Contains(err.Error(), "no version found") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fetch(ctx, t.TempDir(), server.URL); err == nil {
		t.Error("no error")
	}
}

// A download that hangs holds up nobody for longer than the context says. What
// comes of it later is of use to the next.
func TestFetchEndsWithItsContext(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		once.Do(func() { close(asked) })
		<-release
	}))
	defer server.Close()
	defer close(release)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	mine := errors.New("the test has waited for long enough")
	go func() {
		<-asked
		cancel(mine)
	}()
	if _, err := fetch(ctx, t.TempDir(), server.URL); !errors.Is(err, mine) {
		t.Errorf("got %v", err)
	}
}

// What was fetched meanwhile by another process counts, and nothing of one's own
// is left.
func TestFetchLosesTheRace(t *testing.T) {
	url, downloads := repository(t)
	cache := t.TempDir()
	first, err := fetch(t.Context(), cache, url)
	must(t, err)
	must(t, install(cache, filepath.Dir(first), url))
	entries, err := os.ReadDir(cache)
	must(t, err)
	if len(entries) != 1 || downloads.Load() != 2 {
		t.Errorf("%d downloads; left are %v", downloads.Load(), entries)
	}
}

func TestFetchWithoutAFolder(t *testing.T) {
	url, downloads := repository(t)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := fetch(t.Context(), filepath.Join(file, "cache"), url); err == nil || downloads.Load() != 0 {
		t.Errorf("%d downloads into a folder that cannot be: %v", downloads.Load(), err)
	}
}

// The folder is the user's, or one that PostgreSQL's user can read as well.
func TestFindUsesTheEnvironment(t *testing.T) {
	url, downloads := repository(t)
	was := rootCache
	t.Cleanup(func() { rootCache = was })
	rootCache = t.TempDir()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv(repositoryEnv, url)
	bin, err := find(t.Context())
	must(t, err)
	if info, err := os.Stat(bin); err != nil || info.Mode()&fs.ModeDir == 0 || downloads.Load() != 1 {
		t.Errorf("%s, %d downloads: %v", bin, downloads.Load(), err)
	}
	if os.Geteuid() == 0 && runtime.GOOS == "linux" && !strings.HasPrefix(bin, rootCache) {
		t.Errorf("root's folder is %s", bin)
	}
}

// Without a home there is no folder to keep anything in. Root needs none.
func TestFindWithoutAHome(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	needsNone := os.Geteuid() == 0 && runtime.GOOS == "linux"
	if _, err := cacheDir(); (err == nil) != needsNone {
		t.Errorf("%v", err)
	}
}
