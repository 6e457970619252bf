package embedded

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

func TestFindUsesTheEnvironment(t *testing.T) {
	if os.Geteuid() == 0 {
		if dir, err := cacheDir(); err != nil || dir != "/var/cache/pgkeel" {
			t.Errorf("root's cache: %s, %v", dir, err)
		}
		return
	}
	url, _ := repository(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv(repositoryEnv, url)
	bin, err := find(t.Context())
	must(t, err)
	if info, err := os.Stat(bin); err != nil || info.Mode()&fs.ModeDir == 0 {
		t.Errorf("%s: %v", bin, err)
	}
}
