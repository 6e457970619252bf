package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fenced puts code into a Markdown file; the code starts at line 3.
func fenced(code string) string { return "text\n```go\n" + code + "\n```\nmore\n" }

func TestCheckAcceptsWhatCompiles(t *testing.T) {
	for name, text := range map[string]string{
		"no code":                  "just text\n",
		"another language":         "```sh\nmake demo\n```\n\n```\nplain\n```\n",
		"complete file":            fenced("package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println() }"),
		"declarations":             fenced("type user struct{ at time.Time }"),
		"statements":               fenced("n := strings.Count(\"a\", \"b\")\nfmt.Println(n)"),
		"unused variable":          fenced("n := 1"),
		"given variables":          fenced("if err := ctx.Err(); err != nil {\n\treturn err\n}"),
		"the handle":               fenced("_, err = db.Exec(ctx, \"select 1\")"),
		"opened in the snippet":    fenced("db, err := pgkeel.Open(ctx, \"\")\ndefer db.Close(ctx)"),
		"given and declared anew":  fenced("ctx, err := context.WithCancel(ctx)"),
		"imports, then statements": fenced("import (\n\t\"math/rand/v2\"\n)\n\nprintln(rand.IntN(3))"),
		"import under a name":      fenced("import r \"math/rand/v2\"\n\nprintln(r.IntN(3))"),
		"type of another block":    fenced("println(user{}.id)") + fenced("type user struct{ id int }"),
		"pgx by its name":          fenced("var rows pgx.Rows\nrows.Close()"),
		"field, not a package":     fenced("var strings struct{ x int }\nprintln(strings.x)"),
		"fence in a list":          "- so:\n  ```go\n  println()\n  ```\n",
		"longer fence":             "````md\n```go\nnonsense here\n```\n````\n",
	} {
		t.Run(name, func(t *testing.T) {
			if err := check(map[string]string{"README.md": text}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCheckReportsThePlaceInTheMarkdownFile(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown function":     {fenced("println()\nstrings.Nonsense()"), "README.md:4:9: undefined: strings.Nonsense"},
		"unknown package":      {fenced("nonsense.Do()"), "README.md:3:1: undefined: nonsense"},
		"wrong type":           {fenced("var n int = \"a\""), "README.md:3:13: cannot use"},
		"syntax":               {fenced("println()\nprintln(]"), "README.md:4:9: expected"},
		"after the imports":    {fenced("import \"fmt\"\n\nfmt.Nonsense()"), "README.md:5:5: undefined: fmt.Nonsense"},
		"unused import":        {fenced("import \"fmt\"\n\nprintln()"), `README.md:3:8: "fmt" imported and not used`},
		"in a declaration":     {fenced("\nfunc f() { nonsense() }"), "README.md:4:12: undefined: nonsense"},
		"in a complete file":   {fenced("package p\n\nfunc f() { nonsense() }"), "README.md:5:12: undefined: nonsense"},
		"unused, complete":     {fenced("package p\n\nfunc f() { x := 1 }"), "README.md:5:12: declared and not used: x"},
		"ambiguous package":    {fenced("template.New(\"x\")"), "README.md:3: several packages are called template"},
		"type declared twice":  {fenced("type T int") + fenced("type T int"), "README.md:8:6: T redeclared"},
		"exempt by a word":     {"```go skip\nx\n```\n", `README.md:1: a fence says "go skip"`},
		"exempt by an alias":   {"```golang\nx\n```\n", `README.md:1: a fence says "golang"`},
		"block without an end": {"```go\nprintln()\n", "README.md: a fenced block is not closed"},
	} {
		t.Run(name, func(t *testing.T) {
			err := check(map[string]string{"README.md": c.text})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestCheckReportsEveryFault(t *testing.T) {
	err := check(map[string]string{"README.md": fenced("one()\ntwo()") + fenced("x := ]"), "docs/a.md": fenced("three()")})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"undefined: one", "undefined: two", "README.md:9:6: expected", "docs/a.md:3:1: undefined: three"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
}

func TestBlocksOfOneFileAreNotSeenInAnother(t *testing.T) {
	err := check(map[string]string{"a.md": fenced("type T int"), "b.md": fenced("var x T")})
	if err == nil || !strings.Contains(err.Error(), "b.md:3:7: undefined: T") {
		t.Errorf("got %v", err)
	}
}

func TestMarkdownFiles(t *testing.T) {
	dir := t.TempDir()
	files, err := markdownFiles(dir)
	if err != nil || len(files) != 0 {
		t.Fatalf("in an empty folder: %v, %v", files, err)
	}
	for _, name := range []string{"README.md", "docs/a.md", "docs/b/c.md", "docs/d.txt", "other.md"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err = markdownFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "docs/a.md", "docs/b/c.md"} {
		if files[filepath.Join(dir, name)] != name {
			t.Errorf("%s is missing", name)
		}
	}
	if len(files) != 3 {
		t.Errorf("got %v", files)
	}
}
