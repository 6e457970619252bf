package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	files, err := markdownFiles(".")
	if err == nil {
		err = check(files)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// markdownFiles returns README.md and what is below docs, as far as they are
// there, by name and content.
func markdownFiles(dir string) (map[string]string, error) {
	files := map[string]string{}
	for _, top := range []string{"README.md", "docs"} {
		err := filepath.WalkDir(filepath.Join(dir, top), func(path string, entry fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".md") {
				return err
			}
			text, err := os.ReadFile(path) //nolint:gosec // reading the repository's own files is the task
			files[path] = string(text)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}
