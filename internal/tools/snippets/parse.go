package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// A source is a block that has become a Go file.
type source struct {
	block
	file  *ast.File
	alone bool // it has a package clause, and so a package of its own
}

// A given is a variable that a fragment may use without declaring it.
type given struct{ name, pkg, typ string }

var givens = []given{
	{"ctx", "context", "context.Context"},
	{"db", "pgkeel", "*pgkeel.DB"},
	{"err", "", "error"},
}

// parse makes a file of a block. packages maps the name of a package to its path.
func parse(fset *token.FileSet, b block, packages map[string]string) (*source, error) {
	if _, err := parser.ParseFile(token.NewFileSet(), "", b.code, parser.PackageClauseOnly); err == nil {
		file, err := parser.ParseFile(fset, "", b.at(0)+b.code, parser.SkipObjectResolution)
		return &source{block: b, file: file, alone: true}, err
	}
	f, err := newFragment(b)
	if err != nil {
		return nil, err
	}
	draft, err := parser.ParseFile(token.NewFileSet(), "", f.text(nil, nil), 0)
	if err != nil {
		return nil, err
	}
	params, imports, err := f.unresolved(draft, packages)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseFile(fset, "", f.text(imports, params), parser.SkipObjectResolution)
	return &source{block: b, file: file}, err
}

// at returns a directive that puts what follows at the offset's place in the
// Markdown file.
func (b block) at(offset int) string {
	before := b.code[:offset]
	column := offset - strings.LastIndexByte(before, '\n')
	return fmt.Sprintf("/*line %s:%d:%d*/", b.file, b.line+strings.Count(before, "\n"), column)
}

// A fragment is a block without a package clause: imports, if any, and then
// declarations or statements.
type fragment struct {
	block
	split      int // where the imports end
	imported   map[string]bool
	statements bool
}

const clause = "package snippet; "

func newFragment(b block) (*fragment, error) {
	fset := token.NewFileSet()
	head, err := parser.ParseFile(fset, "", clause+b.at(0)+b.code, parser.ImportsOnly|parser.SkipObjectResolution)
	if head == nil || len(head.Imports) == 0 {
		head, err = &ast.File{}, nil // it may not even start like a file: then it is statements
	}
	if err != nil {
		return nil, err
	}
	f := &fragment{block: b, imported: map[string]bool{}}
	for _, spec := range head.Imports {
		f.imported[importName(spec)] = true
	}
	if n := len(head.Decls); n > 0 {
		f.split = fset.PositionFor(head.Decls[n-1].End(), false).Offset - len(clause) - len(b.at(0))
	}
	_, err = parser.ParseFile(token.NewFileSet(), "", clause+b.code[f.split:], parser.SkipObjectResolution)
	f.statements = err != nil
	return f, nil
}

// text returns the fragment as a file. Statements have a scope of their own, so
// that they may declare anew what they are given.
func (f *fragment) text(imports, params []string) string {
	var s strings.Builder
	s.WriteString(clause)
	for _, path := range imports {
		fmt.Fprintf(&s, "import %q; ", path)
	}
	s.WriteString(f.at(0) + f.code[:f.split] + "\n")
	if f.statements {
		fmt.Fprintf(&s, "func _(%s) error { {\n", strings.Join(params, ", "))
	}
	s.WriteString(f.at(f.split) + f.code[f.split:])
	if f.statements {
		s.WriteString("}; return nil }\n") // the code ends with its line
	}
	return s.String()
}

// unresolved returns what the fragment lacks: variables that it is given, and
// packages.
func (f *fragment) unresolved(draft *ast.File, packages map[string]string) (params, imports []string, err error) {
	unknown := map[string]bool{}
	ofPackage := map[string]bool{}
	for _, ident := range draft.Unresolved {
		unknown[ident.Name] = true
	}
	for _, g := range givens {
		if f.statements && unknown[g.name] {
			params = append(params, g.name+" "+g.typ)
			ofPackage[g.pkg] = true
		}
	}
	ast.Inspect(draft, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && unknown[x.Name] {
				ofPackage[x.Name] = true
			}
		}
		return true
	})
	for name := range ofPackage {
		path, known := packages[name]
		switch {
		case f.imported[name] || !known:
		case path == "":
			return nil, nil, fmt.Errorf("%s:%d: several packages are called %s: import the one that is meant", f.file, f.line, name)
		default:
			imports = append(imports, path)
		}
	}
	return params, imports, nil
}

var major = regexp.MustCompile(`^v\d+$`)

// importName returns the name that an import goes by; for one without a name of
// its own that is a guess from its path.
func importName(spec *ast.ImportSpec) string {
	if spec.Name != nil {
		return spec.Name.Name
	}
	p, _ := strconv.Unquote(spec.Path.Value)
	if major.MatchString(path.Base(p)) {
		p = path.Dir(p)
	}
	return path.Base(p)
}
