package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// check type-checks the Go blocks of the Markdown files, which it gets by name
// and content. It returns all faults joined.
func check(files map[string]string) error {
	var all []block
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		found, err := blocks(name, files[name])
		all, errs = append(all, found...), append(errs, err)
	}
	if len(all) == 0 {
		return errors.Join(errs...)
	}
	packages, err := packageNames()
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	var sources []*source
	for _, b := range all {
		src, err := parse(fset, b, packages)
		errs = append(errs, err)
		if err == nil {
			sources = append(sources, src)
		}
	}
	exports, err := exportFiles(sources)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, typeCheck(fset, sources, exports)...)...)
}

// typeCheck checks the blocks of one Markdown file as one package, and each
// complete file as its own.
func typeCheck(fset *token.FileSet, sources []*source, exports map[string]string) []error {
	groups := map[string][]*ast.File{}
	for _, src := range sources {
		key := src.block.file
		if src.alone {
			key = fmt.Sprintf("%s:%06d", key, src.line)
		}
		groups[key] = append(groups[key], src.file)
	}
	var errs []error
	imp := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		alone := strings.Contains(key, ":")
		config := types.Config{Importer: imp, Error: func(err error) {
			var fault types.Error
			if !alone && errors.As(err, &fault) && strings.HasPrefix(fault.Msg, "declared and not used") {
				return
			}
			errs = append(errs, err)
		}}
		_, _ = config.Check("snippet", fset, groups[key], nil) // Error has them all
	}
	return errs
}

// packageNames maps the names of packages to their paths: pgx, the packages of
// this repository, the standard library. A name that several packages of the
// standard library share has no path.
var packageNames = sync.OnceValues(func() (map[string]string, error) {
	names := map[string]string{}
	for _, pattern := range []string{"std", "work"} {
		lines, err := goList("-e", "-f", "{{.Name}}\t{{.ImportPath}}", pattern)
		if err != nil {
			return nil, err
		}
		inPattern := map[string]string{}
		for name, path := range lines {
			for _, p := range path {
				if hidden(name, p) {
					continue
				}
				if _, twice := inPattern[name]; twice {
					p = ""
				}
				inPattern[name] = p
			}
		}
		maps.Copy(names, inPattern)
	}
	maps.Copy(names, map[string]string{
		"pgx":     "github.com/jackc/pgx/v5",
		"pgconn":  "github.com/jackc/pgx/v5/pgconn",
		"pgtype":  "github.com/jackc/pgx/v5/pgtype",
		"pgxpool": "github.com/jackc/pgx/v5/pgxpool",
	})
	return names, nil
})

// hidden tells packages that a reader of the documentation cannot import.
func hidden(name, path string) bool {
	parts := strings.Split(path, "/")
	return name == "main" || name == "" || slices.Contains(parts, "internal") || parts[0] == "vendor"
}

// exportFiles builds what the sources import, and maps each package to the file
// with its compiled declarations.
func exportFiles(sources []*source) (map[string]string, error) {
	imports := map[string]bool{}
	for _, src := range sources {
		for _, spec := range src.file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			imports[path] = true
		}
	}
	if len(imports) == 0 {
		return nil, nil
	}
	args := append([]string{"-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "--"}, slices.Sorted(maps.Keys(imports))...)
	lines, err := goList(args...)
	if err != nil {
		return nil, err
	}
	exports := map[string]string{}
	for path, file := range lines {
		exports[path] = file[0]
	}
	return exports, nil
}

// goList runs go list with a format of two columns, and returns the second ones
// by the first.
func goList(args ...string) (map[string][]string, error) {
	cmd := exec.Command("go", append([]string{"list"}, args...)...) //nolint:gosec // go list on what the documentation imports
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", strings.Join(args, " "), err)
	}
	lines := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		if left, right, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			lines[left] = append(lines[left], right)
		}
	}
	return lines, nil
}
