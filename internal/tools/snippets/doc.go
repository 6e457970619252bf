// Snippets type-checks the Go code in Markdown files: each fenced block whose
// language is go, in README.md and below docs/. The rules for a block:
//
//   - One that starts with a package clause is a file of its own, complete with
//     its imports.
//   - Any other may start with imports, and goes on either with declarations or
//     with statements. Statements are the body of a function in which ctx
//     (context.Context), db (*pgkeel.DB) and err are already there, and which
//     returns an error. A variable that the block declares and does not use is
//     no fault.
//   - The declarations in one Markdown file are seen by all its later and
//     earlier blocks, so a type is shown once.
//   - A package that is not imported is found by its name: pgx and its parts,
//     then the packages of this repository, then the standard library.
//   - Nothing is exempt: a word after "go" is an error.
//
// Faults are reported with the line in the Markdown file.
package main
